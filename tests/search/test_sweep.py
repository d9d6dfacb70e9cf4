"""The sweep without Ray: killed at every event and resumed, it decides what the unbroken one decides."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest

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


def config(space=SPACE, **tune):
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(space), tune=TuneConfig(num_trials=14, **tune),
    )  # fmt: skip


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: a journal is synced event by event, thousands of times here."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


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


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", ["stopping", "promotion", "auto"])
def test_resumed_after_a_kill_at_any_event_it_is_the_same_sweep(tmp_path, kind):
    settings = config(asha_type=kind)
    attempt(tmp_path / "whole", settings)
    whole = outcome(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    states = {state for _, _, _, state, _, _ in whole[0]}
    assert states == {"completed", "stopped", "diverged"}
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
    sweep.fail_trial(trial.id, "lost", "killed by the stop", retry=True)
    sweep.end_attempt("again")
    assert len(journal.events) == written
    assert sweep.state.trials[trial.id].state == "interrupted"
    journal.close()
