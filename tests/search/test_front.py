"""Several objectives: ranks by dominance, a search that finds the front, and a sweep that goes on after a kill."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hpo.config import SweepConfig
from hpo.records import Journal, SweepState, read_events
from hpo.results.front import front
from hpo.results.read import open_results, read_results
from hpo.search.asha import Rung
from hpo.search.evidence import Observation, gather
from hpo.search.front import FrontRung, weigh
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig

WIDTHS = (0.2, 1.0, 5.0, 25.0)
SPACE = parse_space(
    {
        "model.timm_image.checkpoint_name": {"choice": ["test_vit", "test_resnet", "resnet18", "resnet50"]},
        "optim.lr": {"loguniform": [1e-5, 1.0], "default": 1e-4},
        "optim.weight_decay": {"loguniform": [1e-6, 1.0]},
        "optim.max_epochs": 9,
    }
)


def train(params, epoch):
    """Larger models are better, when their own learning rate is found."""
    place = ["test_vit", "test_resnet", "resnet18", "resnet50"].index(params["model.timm_image.checkpoint_name"])
    off = abs(math.log10(params["optim.lr"]) + 1.5 + 0.5 * place) + 0.3 * abs(
        math.log10(params["optim.weight_decay"]) + 2
    )
    return {"val_accuracy": (0.5 + 0.12 * place) * math.exp(-off) * (1 - math.exp(-epoch / 3)),
            "parameters": 1e6 * WIDTHS[place]}  # fmt: skip


def attempt(path, seed=0, trials=40, searcher="bayes", events=None):
    """A sweep by one worker, from the journal at `path`; killed when it has `events`."""
    config = SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=seed, space=SPACE,
        tune=TuneConfig(num_trials=trials, searcher=searcher), objectives=("parameters",),
    )  # fmt: skip
    journal = Journal(path)
    sweep = Sweep(config, journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    while trial := sweep.next_trial():
        sweep.start_trial(trial.id, "n")
        epoch, goes_on = trial.epochs, True
        while goes_on:
            epoch += 1
            goes_on = sweep.report(trial.id, epoch, train(trial.params, epoch))
    journal.close()
    return SweepState(read_events(path))


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


def test_with_one_objective_the_ranks_are_ashas():
    rng = np.random.default_rng(0)
    one, many = Rung(3), FrontRung()
    for number, value in enumerate(rng.integers(0, 12, 60).astype(float)):
        rank, of, _ = one.judge((value, number))
        assert many.judge((value,)) == (rank, of)
        one.places.append((value, number))
        one.places.sort()
        many.enter((value,))


def test_ranks_count_those_whom_fewer_dominate():
    rng = np.random.default_rng(1)
    points = [tuple(p) for p in rng.integers(0, 6, (50, 2)).astype(float)]
    rung = FrontRung()
    for number, point in enumerate(points):
        present = [*points[:number], point]

        def dominators(p, present=present):
            return sum(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in present)

        own = dominators(point)
        ahead = sum((dominators(q), q[0]) < (own, point[0]) or (dominators(q), q[0]) == (own, point[0])
                    for q in points[:number])  # fmt: skip
        assert rung.judge(point) == (ahead + 1, number + 1)
        rung.enter(point)


def test_weights_decide_who_is_best():
    ranks = np.array([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5], [0.9, 0.9]])
    assert [int(weigh(ranks, np.array(w)).argmin()) for w in ([1, 0], [0, 1], [0.5, 0.5])] == [0, 1, 2]
    seen = [Observation({"optim.lr": 0.1}, [0.9], costs=(9.0,)), Observation({"optim.lr": 0.2}, [0.1], costs=(1.0,)),
            Observation({"optim.lr": 0.3}, [], failed=True, barred=True)]  # fmt: skip
    space = parse_space({"optim.lr": {"uniform": [0.0, 1.0]}})
    for weights, best in (([1.0, 0.0], 0), ([0.0, 1.0], 1)):
        score = gather(space, seen, True, np.array(weights)).score
        assert score.argmax() == best
        assert score.argmin() == 2 or score[2] == score.min()


def volume(state):
    """What the front dominates, of accuracy 0 to 1 and parameters 1e5 to 1e8 by magnitude."""
    points = sorted((8 - math.log10(t.last[t.best[0]]["parameters"]), t.best[1]) for t in state.trials.values())
    total, best = 0.0, 0.0
    for place in range(len(points) - 1, -1, -1):
        best = max(best, points[place][1])
        total += best * (points[place][0] - (points[place - 1][0] if place else 0.0))
    return total


def test_it_finds_more_of_the_front_than_random_search(folder):
    volumes = {
        searcher: [volume(attempt(folder / f"{searcher}{seed}", seed, searcher=searcher)) for seed in range(4)]
        for searcher in ("bayes", "random")
    }
    assert statistics.mean(volumes["bayes"]) > 1.1 * statistics.mean(volumes["random"])


def test_the_front_is_that_of_the_journal_and_a_killed_sweep_goes_on_alike(folder):
    whole = attempt(folder / "journal.jsonl", trials=16)
    (folder / "resolved.json").write_text('{"objectives": ["parameters"], "metric": "val_accuracy", "mode": "max"}')
    results = read_results(open_results(folder))
    found = front(results)
    assert [row.value for row in found] == sorted((row.value for row in found), reverse=True)
    assert [row.metrics["parameters"] for row in found] == sorted(
        (r.metrics["parameters"] for r in found), reverse=True
    )
    for row in results.rows:
        beaten = any(o.value >= row.value and o.metrics["parameters"] <= row.metrics["parameters"]
                     and (o.value, o.metrics["parameters"]) != (row.value, row.metrics["parameters"])
                     for o in results.rows)  # fmt: skip
        assert (row in found) != beaten
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for kill in range(1, len(lines), 5):
        path = folder / f"killed-{kill}"
        path.write_bytes(b"".join(lines[:kill]))
        again = attempt(path, trials=16)
        assert [(t.params, t.state, t.reason) for t in again.trials.values()] == [
            (t.params, t.state, t.reason) for t in whole.trials.values()
        ]
