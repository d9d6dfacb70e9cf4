"""The simulation: time, workers, openings; and a sweep replayed in it decides as its own scheduler does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpo.config import SweepConfig, TuneConfig
from hpo.search.replay import Replay
from hpo.search.simulation import Job, simulate
from hpo.space import Dimension, Range, Space


@dataclass
class Row:
    errors: list[float]
    seconds: list[float]


@dataclass
class Queue:
    """Hands out jobs in their order and never stops one."""

    jobs: list[Job]
    ended: list[tuple[str, int]] = field(default_factory=list)

    def ask(self):
        return self.jobs.pop(0) if self.jobs else None

    def tell(self, key, epoch, error, seconds):
        return True

    def end(self, key, epoch, error):
        self.ended.append((key, epoch))


@pytest.mark.parametrize(("workers", "seconds"), [(1, 15.0), (2, 9.5), (9, 6.75)])
def test_workers_share_the_work(workers, seconds):
    queue = Queue([Job(key, length, length) for key, length in (("a", 3), ("b", 2), ("c", 6), ("d", 1))])
    course = simulate(queue, lambda length: Row([0.5] * length, [1.0] * length), workers, opening=0.75)
    assert course.epochs == 12
    assert course.busy == 15.0  # 12 epochs and 4 openings
    assert course.seconds == pytest.approx(seconds)
    assert sorted(queue.ended) == [("a", 3), ("b", 2), ("c", 6), ("d", 1)]


def test_a_training_goes_on_where_it_was_and_the_end_cuts_it_off():
    queue = Queue([Job("a", None, 2), Job("a", None, 4)])
    heard = []
    course = simulate(queue, lambda _: Row([4.0, 3.0, 2.0, 1.0], [1.0] * 4), 1, end=3.5,
                      listen=lambda now, error: heard.append((now, error)))  # fmt: skip
    assert heard == [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0)]
    assert (course.seconds, course.trainings, course.epochs, course.busy) == (3.5, 1, 3, 3.5)


def config(**tune):
    space = Space((Dimension("optim.lr", "optim.lr", Range(0.0, 1.0), 0.5, {}),), {"optim.max_epochs": 9})
    return SweepConfig(
        name="r", data=Path("none"), task="classification", metric="val_accuracy", mode="max", seed=0,
        space=space, tune=TuneConfig(num_trials=9, searcher="random", **tune),
    )  # fmt: skip


def world(params):
    return Row([params["optim.lr"]] * 9, [1.0] * 9)


def test_asha_stops_the_worst_and_fifo_nobody():
    whole = Replay(config(scheduler="FIFO"))
    assert simulate(whole, world, 3).epochs == 9 * 9
    asha = Replay(config())
    course = simulate(asha, world, 3)
    states = [trial.state for trial in asha.sweep.state.trials.values()]
    assert asha.sweep.done
    assert 9 + 9 < course.epochs < 81
    assert states.count("stopped") >= 4
    best = min(asha.sweep.state.trials.values(), key=lambda trial: trial.params["optim.lr"])
    assert best.state == "completed"


def test_promotion_pauses_and_goes_on():
    sweep = Replay(config(asha_type="promotion"))
    simulate(sweep, world, 2)
    assert sweep.sweep.done
    assert any(d["action"] == "pause" for trial in sweep.sweep.state.trials.values() for d in trial.decisions)


def test_a_trial_that_gets_no_better_ends_by_its_patience():
    replay = Replay(config(scheduler="FIFO"))
    replay.sweep.config.space.constants["optim.patience"] = 3
    assert simulate(replay, world, 2).epochs == 9 * 4
    assert {trial.reason for trial in replay.sweep.state.trials.values()} == {"patience"}
