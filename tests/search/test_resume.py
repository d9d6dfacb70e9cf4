"""Simulated sweeps of 1 and 8 workers, killed after every event and resumed: what follows is what would have followed.

No training and no Ray: workers take times drawn at random, trials fail by rules. With one worker, and with
`deterministic` however the times come, the resumed sweep is the unbroken one to its end. With eight workers and none of
that, it is for the same later reports.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from pathlib import Path

import pytest
from course import course

from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.records import Journal, read_events
from hpo.search.lockstep import LockstepSweep
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig, parse_tune

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.optim_type": "sgd"}},
    "optim.max_epochs": 9,
}
TRIALS = 18
TYPES = ("stopping", "promotion", "auto")
FAR = 10  # every so many cuts the sweep is followed to its end, after the others for this many events


def settings(**tune):
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(SPACE), tune=TuneConfig(**{"num_trials": TRIALS, **tune}),
        points=({"optim.lr": 0.09, "optim.optim_type": "adamw"},),
    )  # fmt: skip


def draw(*about):
    """A number of 0 to 1 that belongs to `about`."""
    return int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:4], "big") / 2**32


def train(params, epoch):
    """Its value after `epoch`, NaN where it diverges."""
    if params["optim.lr"] > 0.06:
        return math.nan
    slope = 2 + params.get("optim.momentum", 0.8)
    return math.exp(-((math.log10(params["optim.lr"]) + 2) ** 2)) * (1 - math.exp(-epoch / slope))


def fails(trial, epoch):
    """A trial in eight cannot be trained, or not beyond its first epoch; some processes are killed, each once."""
    if trial.number % 8 == 5 and epoch == (1 if trial.number > 8 else 2):
        return "exception"
    killed = draw("killed", trial.number, epoch) < 0.06
    return "killed" if killed and not any(failure["epoch"] == epoch - 1 for failure in trial.failures) else ""


class Enough(Exception):  # noqa: N818
    """Followed far enough."""


def begin(path, config, limit):
    journal = Journal(path)
    sweep = (LockstepSweep if config.tune.deterministic else Sweep)(config, journal, "a")
    left = itertools.count(limit or -1, -1)

    def listen(event):
        if next(left) == 1:
            raise Enough

    sweep.listener = listen
    return journal, sweep


def run(path, config, workers, pace, limit=None):
    """An attempt of `workers` that take times of `pace`, to its end or until `limit` events were written."""
    journal, sweep = begin(path, config, limit)
    order, busy, now = itertools.count(), [], 0.0
    try:
        sweep.start_attempt(job="", host=f"h{pace}", nodes=1)
        while True:
            while len(busy) < workers and (trial := sweep.next_trial()):
                sweep.start_trial(trial.id, "n")
                epoch = trial.checkpoint[0] + 1 if trial.checkpoint else 1
                heapq.heappush(busy, (now + 0.1 + draw(pace, trial.id, epoch), next(order), trial, epoch, 0.02))
            if not busy:
                break
            now, _, trial, epoch, opened = heapq.heappop(busy)
            if kind := fails(trial, epoch):
                sweep.fail_trial(trial.id, kind, "by rule")
                continue
            metrics = {"val_accuracy": train(trial.params, epoch), "seconds": 0.1 + draw(pace, trial.id, epoch)}
            if sweep.report(trial.id, epoch, metrics, f"c{epoch}", opened=opened):
                heapq.heappush(busy, (now + 0.1 + draw(pace, trial.id, epoch + 1), next(order), trial, epoch + 1, None))
        assert sweep.done
        sweep.end_attempt("all trials have ended")
    except Enough:
        pass
    journal.close()


def run_again(path, config, workers, later, limit=None):
    """An attempt that is told what the events `later` tell, in their order."""
    journal, sweep = begin(path, config, limit)
    known = {event["trial"]: event["epoch"] for event in journal.events if event["type"] == "reported"}
    saved = {event["trial"]: event["epoch"] for event in journal.events if event["type"] == "checkpointed"}
    busy: set[str] = set()
    try:
        sweep.start_attempt(job="", host="other", nodes=1)
        for event in [*later, {"type": "end"}]:
            while len(busy) < workers and (trial := sweep.next_trial()):
                sweep.start_trial(trial.id, "n")
                busy.add(trial.id)
                if known.get(trial.id, 0) > saved.get(trial.id, 0):  # the checkpoint was ahead of the journal
                    saved[trial.id] = known[trial.id]
            if event["type"] == "failed":
                sweep.fail_trial(event["trial"], event["kind"], event["cause"])
                busy.discard(event["trial"])
            elif event["type"] == "reported":
                assert event["trial"] in busy, "it is not at work"
                path = f"c{event['epoch']}"
                if not sweep.report(event["trial"], event["epoch"], event["metrics"], path, opened=event.get("opened")):
                    busy.discard(event["trial"])
        assert sweep.done
        sweep.end_attempt("all trials have ended")
    except Enough:
        pass
    journal.close()


def kill_everywhere(path, config, resume):
    """Cuts the journal at `path` after each event, resumes by resume(path, place, limit), compares."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = course(read_events(path))
    for place in range(1, len(lines)):
        killed = path.with_name("killed")
        killed.write_bytes(b"".join(lines[:place]))
        limit = None if place % FAR == 0 else FAR
        resume(killed, place, limit)
        found = course(read_events(killed))
        assert found == whole[: len(found)], f"killed after event {place}"
        assert limit or found == whole, f"killed after event {place}"


def assert_everything_happened(path, kind):
    events = read_events(path)
    found = course(events)
    assert {row[2] for row in found if row[0] == "finished"} == {"completed", "stopped", "diverged", "failed"}
    assert {row[3] for row in found if row[0] == "suggested"} == {"default", "user", "random", "model"}
    assert {e["kind"] for e in events if e["type"] == "failed"} == {"exception", "killed"}
    assert kind == "stopping" or any(e["type"] == "reviewed" for e in events)


@pytest.mark.parametrize("kind", TYPES)
def test_one_worker(tmp_path, kind):
    config = settings(asha_type=kind)
    run(tmp_path / "whole", config, 1, pace=0)
    assert_everything_happened(tmp_path / "whole", kind)
    events = read_events(tmp_path / "whole")

    def resume(path, place, limit):
        if kind == "auto":  # times decide whether it pauses
            run_again(path, config, 1, events[place:], limit)
        else:
            run(path, config, 1, pace=place, limit=limit)

    kill_everywhere(tmp_path / "whole", config, resume)


@pytest.mark.parametrize("kind", TYPES)
def test_eight_workers_and_the_same_later_reports(tmp_path, kind):
    config = settings(asha_type=kind)
    run(tmp_path / "whole", config, 8, pace=0)
    assert_everything_happened(tmp_path / "whole", kind)
    events = read_events(tmp_path / "whole")
    kill_everywhere(
        tmp_path / "whole", config, lambda path, place, limit: run_again(path, config, 8, events[place:], limit)
    )


@pytest.mark.parametrize("kind", TYPES)
def test_eight_slots_in_lockstep(tmp_path, kind):
    """After the kill there are other times, and sometimes fewer workers or more."""
    config = settings(asha_type=kind, deterministic=8)
    run(tmp_path / "whole", config, 8, pace=0)
    assert_everything_happened(tmp_path / "whole", "stopping" if kind == "auto" else kind)
    kill_everywhere(
        tmp_path / "whole", config,
        lambda path, place, limit: run(path, config, (8, 3, 1, 20)[place % 4], pace=place, limit=limit),
    )  # fmt: skip


@pytest.mark.parametrize("rule", [{"target": 0.7}, {"plateau": 5}], ids=str)
def test_rules_that_end_a_sweep_in_lockstep(tmp_path, rule):
    config = settings(deterministic=4, searcher="random", **rule)
    run(tmp_path / "whole", config, 4, pace=0)
    assert any(row[0] == "ending" for row in course(read_events(tmp_path / "whole")))
    kill_everywhere(
        tmp_path / "whole", config, lambda path, place, limit: run(path, config, 3, pace=place, limit=limit)
    )


def test_without_lockstep_times_do_decide(tmp_path):
    """What `deterministic` is for."""
    for pace in (0, 1):
        run(tmp_path / f"{pace}", settings(), 8, pace)
        run(tmp_path / f"step-{pace}", settings(deterministic=8), 8, pace)
    first, second, *steps = [course(read_events(tmp_path / name)) for name in ("0", "1", "step-0", "step-1")]
    assert first != second
    assert steps[0] == steps[1]


def test_no_worker_idles_in_lockstep_while_a_slot_has_work(tmp_path):
    """Two workers for eight slots: a trial that waits for its turn holds no place."""
    run(tmp_path / "j", settings(deterministic=8, searcher="random"), 2, pace=0)
    events = read_events(tmp_path / "j")
    first = [e["trial"] for e in events if e["type"] == "reported"][:8]
    assert sorted(first) == [f"{number:04d}" for number in range(8)]


def test_lockstep_is_not_for_guides_of_ray_tune():
    with pytest.raises(UsageError, match=r"deterministic: 4 is for the searchers bayes, random"):
        parse_tune({"deterministic": 4, "scheduler": {"class": "ray.tune.schedulers.MedianStoppingRule"}})
    with pytest.raises(UsageError, match="deterministic must be a whole number of at least 1"):
        parse_tune({"deterministic": 0})
