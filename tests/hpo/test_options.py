"""Ranges and whole sections as options of a choice: a conditional space that every searcher knows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.options import names_key
from hpo.requirements import is_certain, possible_values
from hpo.search.bayes import suggest
from hpo.search.evidence import Observation
from hpo.space import parse_space, space_from_json, space_to_json
from hpo.tuneconfig import TuneConfig
from hpo.warmstart import _carry_over
from hpo.weights import wanted_weights

MIXED = {
    "optim.weight_decay": {"choice": [{"loguniform": [1e-4, 1e-2]}, 0.0, {"uniform": [0.2, 0.3]}]},
    "data": {
        "mixup": {
            "choice": [
                {"turn_on": False},
                {
                    "turn_on": True,
                    "prob": {"uniform": [0.2, 1]},
                    "switch_prob": {"choice": [0.0, {"uniform": [0.1, 0.2]}]},
                },
            ]
        }
    },
}
OPTIMISERS = {
    "optimization": {
        "choice": [
            {"optim_type": "sgd", "learning_rate": {"loguniform": [1e-2, 1]}, "max_epochs": 4},
            {"optim_type": "adamw", "lr": {"loguniform": [1e-5, 1e-3]}, "max_epochs": {"randint": [6, 9]}},
        ],
        "default": {"optim_type": "adamw", "lr": {"loguniform": [1e-5, 1e-3]}, "max_epochs": {"randint": [6, 9]}},
    }
}


def samples(space, count=300):
    rng = random.Random(1)
    return [space.sample(rng) for _ in range(count)]


def test_each_option_is_as_likely_and_what_it_holds_is_there_with_it_alone():
    drawn = samples(parse_space(MIXED))
    kinds = {"loguniform 0.0001 to 0.01": 0, "0.0": 0, "uniform 0.2 to 0.3": 0}
    for params in drawn:
        option, value = params["optim.weight_decay@option"], params["optim.weight_decay"]
        kinds[option] += 1
        low, high = {"loguniform 0.0001 to 0.01": (1e-4, 1e-2), "0.0": (0, 0), "uniform 0.2 to 0.3": (0.2, 0.3)}[option]
        assert low <= value <= high
        assert ("data.mixup.prob" in params) == ("data.mixup.switch_prob" in params) == params["data.mixup.turn_on"]
        assert type(params["data.mixup.turn_on"]) is bool
    assert min(kinds.values()) > 70  # of 300
    assert {params.get("data.mixup.switch_prob") == 0 for params in drawn} == {True, False}


def test_sections_in_both_spellings_and_the_default_option_first():
    space = parse_space(OPTIMISERS)
    assert space.default() == {
        "optim@option": "optim_type=adamw", "optim.optim_type": "adamw", "optim.lr": 1e-4, "optim.max_epochs": 7,
    }  # fmt: skip
    for params in samples(space):
        assert (
            (params["optim.lr"] >= 1e-2) == (params["optim.optim_type"] == "sgd") == (params["optim.max_epochs"] == 4)
        )
    assert space_from_json(json.loads(json.dumps(space_to_json(space))), space.constants) == space
    assert sorted(possible_values(space, "optim.max_epochs")) == [4, 6, 8]  # and not the 20 of who does not say it
    assert is_certain(space, "optim.lr")
    assert not is_certain(parse_space(MIXED), "data.mixup.prob")


def test_a_point_finds_its_option():
    space = parse_space({**MIXED, **OPTIMISERS})
    point = space.complete({"optim.weight_decay": 0.25, "data.mixup.prob": 0.5, "optim.lr": 0.5})
    assert point["optim.weight_decay@option"] == "uniform 0.2 to 0.3"
    assert (point["data.mixup.turn_on"], point["data.mixup.prob"]) == (True, 0.5)
    assert point["optim.optim_type"] == "sgd"
    assert space.complete(point) == point
    with pytest.raises(UsageError, match="optim.weight_decay=0.1 lies outside"):
        space.complete({"optim.weight_decay": 0.1})
    older = {"optim.weight_decay": 0.28, "optim.optim_type": "sgd", "optim.lr": 0.02, "optim.max_epochs": 4}
    assert {key: _carry_over(older, space)[key] for key in older} == older  # of an earlier sweep without options


def test_trials_are_configured_without_the_options():
    space = parse_space(OPTIMISERS)
    common = {"name": "x", "data": Path("x"), "task": "classification", "metric": "val_accuracy", "mode": "max"}
    trial = SweepConfig(**common, seed=0, space=space, tune=TuneConfig()).trial(space.default())
    assert (trial.optim.optim_type, trial.optim.max_epochs) == ("adamw", 7)


def test_models_in_sections_are_the_ones_whose_weights_are_wanted():
    space = parse_space(
        {"model.timm_image": {"choice": [{"checkpoint_name": "resnet18"}, {"checkpoint_name": "resnet10t"}]}}
    )
    assert wanted_weights(space).models == ("resnet18", "resnet10t")


def test_the_models_of_the_search_take_them():
    """Suggestions from observations keep to the space, and find the option that was better."""
    space = parse_space(MIXED)
    seen = [Observation(p, [float(p["data.mixup.turn_on"]) - p["optim.weight_decay"]]) for p in samples(space, 24)]
    suggested = [suggest(space, seen, 24 + seed, maximise=True, seed=seed, startup=8) for seed in range(10)]
    suggested = [found for found in suggested if found.origin == "model"]  # every few are random
    assert all(space.complete(found.params) == found.params for found in suggested)
    assert sum(found.params["data.mixup.turn_on"] for found in suggested) > len(suggested) / 2 > 2


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"optim.lr@option": "0.1"}, "unknown key 'optim.lr@option'. Did you mean 'optim.lr'"),
        ({"optim.lr": {"choice": [{"uniform": [0, 1], "when": {}}, 1]}}, "an option of choice has no 'when'"),
        ({"optim.lr": {"choice": [{"unifrm": [0, 1]}, 1]}}, "Did you mean 'uniform'"),
        ({"optim.max_epochs": {"choice": [{"uniform": [1, 9]}, 20]}}, "use randint"),
        ({"optim": {"choice": [{"lrr": 1}, {"lr": 2}]}}, "unknown key 'optim.lrr'. Did you mean 'optim.lr'"),
        ({"optim.lr": {"grid_search": [0.1, 0.2]}}, "got grid_search. Use choice: nothing is tried twice"),
        ({"optim": {"choice": [{"lr": 1}, {"lr": 2}]}, "optim.lr": 3}, "optim.lr is given twice"),
        ({"optim": {"choice": [{"lr": 1}, {"lr": 2}], "default": {"lr": 3}}}, "is none of its options"),
    ],
)
def test_refused_on_one_line(hyperparameters, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_space(hyperparameters)
    assert "\n" not in str(caught.value)


def test_whether_a_key_is_named():
    assert names_key({"optim": OPTIMISERS["optimization"]}, "optim.lr")
    assert not names_key({"optim": OPTIMISERS["optimization"]}, "optim.momentum")
