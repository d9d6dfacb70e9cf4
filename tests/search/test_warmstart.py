"""A sweep that begins with what an earlier one learnt."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.records import Journal
from hpo.results.read import open_results, read_results
from hpo.results.why import explain_trial
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig
from hpo.warmstart import read_earlier

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.max_epochs": 9,
}


def config(space=SPACE, fingerprint="f", **more):
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(space), tune=TuneConfig(num_trials=12), fingerprint=fingerprint, **more,
    )  # fmt: skip


def value_of(params, epoch):
    return math.exp(-((math.log10(params["optim.lr"]) + 1.5) ** 2)) * (1 - math.exp(-epoch / 3))


def run(folder, settings, trials=12):
    folder.mkdir()
    (folder / "resolved.json").write_text(json.dumps(settings.to_json()))
    journal = Journal(folder / "journal.jsonl")
    sweep = Sweep(settings, journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    while len(sweep.state.trials) < trials and (trial := sweep.next_trial()):
        sweep.start_trial(trial.id, "n")
        epoch, goes_on = 0, True
        while goes_on:
            epoch += 1
            goes_on = sweep.report(trial.id, epoch, {"val_accuracy": value_of(trial.params, epoch)})
    journal.close()
    return sweep


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "sweep"
    return folder, run(folder, config())


def warmed(old, settings):
    earlier = read_earlier([old[0]], settings.to_json(), settings.space)
    return SweepConfig.from_json(json.loads(json.dumps(dataclasses.replace(settings, earlier=earlier).to_json())))


def test_of_the_same_sweep_the_values_count(old, tmp_path):
    settings = warmed(old, config())
    assert len(settings.earlier["observations"]) == 12
    sweep = run(tmp_path / "new", settings, 3)
    trials = list(sweep.state.trials.values())
    best = old[1].state.incumbent()
    assert (trials[0].origin, trials[1].origin, trials[2].origin) == ("default", "earlier", "model")
    assert trials[1].params == best.params
    assert trials[1].note == f"trial {best.id} of sweep"


def test_once_it_has_trials_of_its_own_every_other_model_looks_at_them_alone(old, tmp_path):
    settings = warmed(old, config())
    settings = dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, num_trials=60))
    sweep = run(tmp_path / "new", settings, 60)
    models = [trial for trial in sweep.state.trials.values() if trial.origin == "model"]
    own = {trial.id: sum(other.number < trial.number for other in sweep.state.trials.values()) for trial in models}
    assert not any(trial.alone for trial in models if own[trial.id] < 8)
    later = [trial for trial in models if own[trial.id] >= 8]
    assert 0.25 < sum(trial.alone for trial in later) / len(later) < 0.75
    results = read_results(open_results(tmp_path / "new"))
    for row in (row for row in results.rows if row.origin == "model"):
        told = "trials of earlier sweeps" in "\n".join(explain_trial(results, row))
        assert told == (not row.alone)
        if row.rung == 1:
            assert int(row.note.partition(" ")[0]) == own[row.trial] + (0 if row.alone else 12)


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "g"},
        {"fingerprint": ""},
        {"space": {**SPACE, "optim.max_epochs": 6}},
        {"space": {**SPACE, "optim.lr": {"loguniform": [1e-4, 1e-2]}}},
    ],
    ids=str,
)
def test_of_another_only_the_best_configurations_are_tried_first(old, tmp_path, other):
    settings = warmed(old, config(**other))
    assert settings.earlier["observations"] == []
    points = settings.earlier["points"]
    assert 1 <= len(points) <= 3
    lr = next(d.domain for d in settings.space.dimensions if d.key == "optim.lr")
    assert all(lr.contains(point["params"]["optim.lr"]) for point in points)
    sweep = run(tmp_path / "new", settings, 2 + len(points))
    origins = [trial.origin for trial in sweep.state.trials.values()]
    assert origins[:-1] == ["default", *["earlier"] * len(points)]
    assert origins[-1] in ("random", "model")


def test_a_model_that_is_not_there_any_more_is_left_out(old):
    settings = config({**SPACE, "optim.optim_type": {"choice": ["lion", "lamb"]}})
    assert read_earlier([old[0]], settings.to_json(), settings.space)["points"] == []


def test_a_sweep_without_a_value_is_refused(tmp_path):
    (tmp_path / "resolved.json").write_text("{}")
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(UsageError, match="no trial of"):
        read_earlier([tmp_path], config().to_json(), config().space)
