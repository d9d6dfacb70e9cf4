"""The search space: what a sweep file may say, and that sampling keeps to it."""

from __future__ import annotations

import json
import random

import pytest

from hpo.errors import UsageError
from hpo.search.evidence import decode
from hpo.space import parse_space, space_from_json, space_to_json

CONDITIONAL = {
    "optimization.optim_type": {"choice": ["adamw", "sgd"]},
    "optimization.learning_rate": [
        {"loguniform": [1e-2, 1.0], "when": {"optimization.optim_type": "sgd"}},
        {"loguniform": [1e-5, 1e-2], "when": {"optimization.optim_type": ["adamw", "lamb"]}},
    ],
    "optim.momentum": {"quniform": [0.5, 0.95, 0.05], "when": {"optim.optim_type": "sgd"}},
    "optim.max_epochs": {"randint": [5, 31]},
    "env.batch_size": {"lograndint": [16, 257]},
    "model.timm_image.train_transforms": {"choice": [["resize"], ["random_crop", "random_horizontal_flip"]]},
    "optim.weight_decay": 1e-4,
}


def test_samples_lie_in_the_space_and_follow_its_conditions():
    space = parse_space(CONDITIONAL)
    rng = random.Random(7)
    seen_types = set()
    for _ in range(500):
        params = space.sample(rng)
        seen_types.add(params["optim.optim_type"])
        low, high = (1e-2, 1.0) if params["optim.optim_type"] == "sgd" else (1e-5, 1e-2)
        assert low <= params["optim.lr"] <= high
        assert ("optim.momentum" in params) == (params["optim.optim_type"] == "sgd")
        if "optim.momentum" in params:
            assert round(params["optim.momentum"] * 20) == pytest.approx(params["optim.momentum"] * 20)
        assert isinstance(params["optim.max_epochs"], int)
        assert 5 <= params["optim.max_epochs"] <= 30
        assert 16 <= params["env.batch_size"] <= 256
        assert isinstance(params["model.timm_image.train_transforms"], list)
    assert seen_types == {"adamw", "sgd"}


def test_both_ends_of_integers_are_reached():
    space = parse_space({"optim.max_epochs": {"randint": [1, 4]}, "env.batch_size": {"lograndint": [1, 4]}})
    rng = random.Random(0)
    samples = [space.sample(rng) for _ in range(200)]
    assert {s["optim.max_epochs"] for s in samples} == {1, 2, 3}
    assert {s["env.batch_size"] for s in samples} == {1, 2, 3}


def test_no_rounding_leads_out_of_a_range():
    space = parse_space({"optim.lr": {"loguniform": [0.01234567890123, 0.0234567890126]}})
    for unit in (0.0, 1.0):
        assert space.dimensions[0].domain.contains(decode(space.dimensions[0], unit))


def test_the_default_is_the_keys_default_where_the_space_has_it():
    space = parse_space({**CONDITIONAL, "optim.label_smoothing": {"uniform": [0.1, 0.3]}})
    default = space.default()
    assert default["optim.optim_type"] == "adamw"
    assert default["optim.lr"] == 1e-4
    assert default["optim.max_epochs"] == 20
    assert default["optim.label_smoothing"] == pytest.approx(0.2)  # 0 lies outside: the middle
    assert "optim.momentum" not in default


def test_json_gives_the_same_space_back():
    space = parse_space(CONDITIONAL)
    again = space_from_json(json.loads(json.dumps(space_to_json(space))), space.constants)
    assert again == space
    assert again.sample(random.Random(3)) == space.sample(random.Random(3))


def test_nested_mappings_mean_the_same_as_dotted_keys():
    nested = {
        "optimization": {"learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "model": {"timm_image": {"drop_rate": 0.1}},
    }
    flat = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.timm_image.drop_rate": 0.1}
    assert parse_space(nested) == parse_space(flat)


def test_a_point_is_completed_by_defaults():
    space = parse_space(CONDITIONAL)
    point = space.complete({"optimization.optim_type": "sgd", "optimization.learning_rate": "0.1"})
    assert point["optim.lr"] == 0.1
    assert point["optim.momentum"] == 0.9
    with pytest.raises(UsageError, match="lies outside"):
        space.complete({"optim.lr": 0.5})
    with pytest.raises(UsageError, match="is not searched"):
        space.complete({"optim.weight_decay": 0.1})


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"optimization.learning_rat": 1}, "Did you mean 'optimization.learning_rate'"),
        ({"optim.lr": {"loguniforn": [1, 2]}}, "Did you mean 'loguniform'"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "lower end above 0"),
        ({"optim.lr": {"uniform": [1, 1]}}, "lower end below"),
        ({"optim.lr": {"uniform": [0.2, 0.1]}}, "lower end below"),
        ({"optim.lr": {"uniform": [0.1]}}, "takes 2 numbers"),
        ({"optim.lr": {"uniform": 3}}, "takes a list"),
        ({"optim.lr": {"quniform": [0.1, 0.2, 0.5]}}, "step 0.5"),
        ({"optim.lr": {"uniform": [-1, 1]}}, "at least 0"),
        ({"optim.max_epochs": {"uniform": [1, 9]}}, "use randint"),
        ({"optim.max_epochs": {"randint": [5, 5]}}, "lower end below"),
        ({"optim.max_epochs": {"randint": [1.5, 5]}}, "whole numbers"),
        ({"optim.optim_type": {"choice": []}}, "at least one option"),
        ({"optim.optim_type": {"choice": ["sgd", "sgd"]}}, "twice"),
        ({"optim.lr": {"choice": [0.1, "fast"]}}, "must be a number"),
        ({"optim.lr": {"uniform": [0.1, 0.2], "default": 0.5}}, "outside its own domain"),
        ({"optim.lr": 0.1, "optimization.learning_rate": 0.2}, "given twice"),
        ({"optim.lr": [{"uniform": [0, 1]}, {"uniform": [1, 2]}]}, "needs a 'when'"),
        ({"optim.lr": {"uniform": [0, 1], "when": {"optim.optim_type": "sgd"}}}, "never has"),
        (
            {
                "optim.lr": {"choice": [0.1, 0.2], "when": {"optim.momentum": 0.9}},
                "optim.momentum": {"choice": [0.9, 0.8], "when": {"optim.lr": 0.1}},
            },
            "circle",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_on_one_line(hyperparameters, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_space(hyperparameters)
    assert "\n" not in str(caught.value)
