"""The sweep without Ray: what it decides, when it ends, what it costs. See test_resume for sweeps that are killed."""

from __future__ import annotations

import cProfile
import math
import pstats
from pathlib import Path

import pytest
from journal_schema import breaches

from hpo.config import SweepConfig
from hpo.records import Journal, SweepState, read_events
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.optim_type": "sgd"}},
    "optim.max_epochs": 9,
}


def config(space=SPACE, trials=14, **tune):
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(space), tune=TuneConfig(num_trials=trials, **tune),
    )  # fmt: skip


def train(params, epoch):
    if params["optim.lr"] > 0.05:
        return math.nan  # diverges
    return math.exp(-((math.log10(params["optim.lr"]) + 2) ** 2)) * (1 - math.exp(-epoch / 3))


def attempt(path, settings):
    """One attempt with one worker."""
    journal = Journal(path)
    sweep = Sweep(settings, journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    while trial := sweep.next_trial():
        sweep.start_trial(trial.id, "n")
        epoch, goes_on = trial.checkpoint[0] if trial.checkpoint else 0, True
        while goes_on:
            epoch += 1
            metrics = {"val_accuracy": train(trial.params, epoch), "seconds": 10.0}
            goes_on = sweep.report(trial.id, epoch, metrics, checkpoint=f"c{epoch}", opened=0.1)
    sweep.end_attempt("all trials have ended")
    journal.close()
    return sweep


def outcome(path):
    state = SweepState(read_events(path))
    return [(t.id, t.params, t.origin, t.state, t.reason, t.best) for t in state.trials.values()], [
        (d["trial"], d["rung"], d["value"], d["rank"], d["of"], d["action"])
        for t in state.trials.values()
        for d in t.decisions
    ]


RULES = [{"plateau": 3, "searcher": "random"}, {"target": 0.7, "searcher": "random"}]


@pytest.mark.parametrize("tune", RULES, ids=str)
def test_resumed_after_a_kill_at_any_event_it_ends_the_same_way(tmp_path, tune):
    settings = config(**tune)
    attempt(tmp_path / "whole", settings)
    whole = outcome(tmp_path / "whole")
    assert not breaches(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for kill in range(1, len(lines)):
        path = tmp_path / f"killed-{kill}"
        path.write_bytes(b"".join(lines[:kill]))
        attempt(path, settings)
        assert outcome(path) == whole, f"killed after event {kill}"


def test_fifo_stops_nothing_but_what_diverged(tmp_path):
    attempt(tmp_path / "j", config(scheduler="FIFO", searcher="random"))
    states = [row[3] for row in outcome(tmp_path / "j")[0]]
    assert set(states) <= {"completed", "diverged"}
    assert states.count("completed") > 5


def test_searched_max_epochs_meet_at_shares_of_their_own(tmp_path):
    attempt(tmp_path / "j", config({**SPACE, "optim.max_epochs": {"choice": [3, 9]}}))
    state = SweepState(read_events(tmp_path / "j"))
    for trial in state.trials.values():
        epochs = [decision["epoch"] for decision in trial.decisions if decision["type"] == "decided"]
        rungs = [1, 1, 3] if trial.params["optim.max_epochs"] == 3 else [1, 3, 9]
        assert epochs == rungs[: len(epochs)]


def test_an_epoch_reported_again_by_a_later_attempt_decides_nothing_twice(tmp_path):
    settings = config()
    journal = Journal(tmp_path / "j")
    sweep = Sweep(settings, journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    trial = sweep.next_trial()
    sweep.start_trial(trial.id, "n")
    sweep.report(trial.id, 1, {"val_accuracy": 0.5})
    sweep.report(trial.id, 1, {"val_accuracy": 0.6})
    assert trial.first[1]["val_accuracy"] == 0.5
    assert trial.last[1]["val_accuracy"] == 0.6
    assert len(trial.decisions) == 1
    assert trial.decisions[0]["value"] == 0.5
    journal.close()


def test_after_the_attempt_ended_nothing_more_is_written(tmp_path):
    journal = Journal(tmp_path / "j")
    sweep = Sweep(config(), journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    trial = sweep.next_trial()
    sweep.start_trial(trial.id, "n")
    sweep.end_attempt("stopped")
    written = len(journal.events)
    assert sweep.report(trial.id, 1, {"val_accuracy": 0.5}) is False
    sweep.fail_trial(trial.id, "killed", "by the stop")
    sweep.end_attempt("again")
    assert len(journal.events) == written
    assert sweep.state.trials[trial.id].state == "interrupted"
    journal.close()


def test_a_target_ends_the_sweep_at_once_and_says_so(tmp_path):
    sweep = attempt(tmp_path / "j", config(target=0.7, scheduler="FIFO"))
    assert sweep.done
    assert len(sweep.state.trials) < 14
    assert sweep.state.ending["rule"] == "target"
    last = list(sweep.state.trials.values())[-1]
    assert last.best[1] >= 0.7
    assert last.state == "stopped"
    assert "has reached 0.7" in last.reason
    assert sweep.state.ended


def test_a_plateau_counts_trials_that_ended_without_a_new_best(tmp_path):
    sweep = attempt(tmp_path / "j", config(plateau=3, scheduler="FIFO", searcher="random"))
    assert sweep.state.ending["rule"] == "plateau"
    trials = list(sweep.state.trials.values())
    assert trials.index(sweep.state.incumbent()) <= len(trials) - 3
    assert all(trial.finished for trial in trials)


def test_the_cost_of_an_event_does_not_grow_and_much_is_replayed_fast(tmp_path):
    """Work is counted in calls of Python functions, which a busy machine does not change."""

    def calls(trials):
        path = tmp_path / f"j{trials}"
        settings = config(trials=trials, searcher="random", asha_type="promotion")
        journal = Journal(path)
        sweep = Sweep(settings, journal, "a")
        sweep.start_attempt(job="", host="h", nodes=1)
        for number in range(trials):
            params = {"optim.lr": 1e-4 * (1 + number), "optim.optim_type": "adamw"}
            sweep._write("suggested", trial=f"{number}", number=number, params=params, origin="random", note="")
            sweep.start_trial(f"{number}", "n")
            sweep.report(f"{number}", 1, {"val_accuracy": (number * 37 % 101) / 101, "seconds": 1.0}, opened=0.1)
        profile = cProfile.Profile()
        profile.enable()
        sweep.report("0", 2, {"val_accuracy": 0.5, "seconds": 1.0}, opened=0.1)
        profile.disable()
        journal.close()
        return pstats.Stats(profile).total_calls

    assert calls(2000) < 1.2 * calls(20) + 20
