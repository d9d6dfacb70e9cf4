"""Search spaces as Python objects: our own, Ray Tune's real ones, and AutoGluon's by their class."""

from __future__ import annotations

import random
import sys
import types

import numpy as np
import pytest

from hpo import Bool, Categorical, Int, Real
from hpo.domains import is_domain, searches, to_plain
from hpo.errors import UsageError
from hpo.space import parse_space

KEY = "optim.lr"


@pytest.mark.parametrize(
    ("space", "plain"),
    [
        (Real(1e-5, 1e-2), {"uniform": [1e-5, 1e-2]}),
        (Real(1e-5, 1e-2, log=True, default=1e-3), {"loguniform": [1e-5, 1e-2], "default": 1e-3}),
        (Int(2, 5), {"randint": [2, 6]}),  # both ends are in it; a sweep file leaves the upper one out
        (Int(2, 5, log=True), {"lograndint": [2, 6]}),
        (Categorical("a", 1, None), {"choice": ["a", 1, None]}),
        (Bool(), {"choice": [False, True]}),
        (Bool(default=True), {"choice": [False, True], "default": True}),
        (Real(1, 2, when={"optim.optim_type": "sgd"}), {"uniform": [1, 2], "when": {"optim.optim_type": "sgd"}}),
    ],
)
def test_our_own(space, plain):
    assert is_domain(space)
    assert to_plain(KEY, space) == plain


def test_booleans_stay_booleans_and_lists_stay_lists():
    [false, true] = to_plain(KEY, Bool())["choice"]
    assert (false, true) == (False, True)
    assert type(false) is type(true) is bool
    options = to_plain(KEY, Categorical(["resize"], ("center_crop", "random_horizontal_flip")))["choice"]
    assert options == [["resize"], ["center_crop", "random_horizontal_flip"]]


def test_integers_reach_both_ends():
    space = parse_space({"optim.max_epochs": to_plain("optim.max_epochs", Int(3, 5))})
    rng = random.Random(0)
    assert {space.sample(rng)["optim.max_epochs"] for _ in range(100)} == {3, 4, 5}


def test_a_finite_space_among_options_stands_for_its_values():
    assert to_plain(KEY, Categorical("off", Int(1, 3), Bool()))["choice"] == ["off", 1, 2, 3, False, True]
    assert to_plain(KEY, Categorical(0.1, Real(1, 2)))["choice"] == [0.1, {"uniform": [1, 2]}]  # a range stays one


def test_nested_sections_and_cases_are_converted_inside():
    plain = to_plain("hyperparameters", {"optim": {"lr": [Real(1, 2), {"choice": [Int(1, 2)]}]}, "n": np.float64(0.5)})
    assert plain == {"optim": {"lr": [{"uniform": [1, 2]}, {"choice": [{"randint": [1, 3]}]}]}, "n": 0.5}


def test_what_searches():
    assert searches(Real(0, 1))
    assert searches([Real(0, 1), {"uniform": [0, 1]}])
    assert searches({"choice": [1]})
    assert not searches(["resize", "center_crop"])
    assert not searches([])
    assert not searches("adamw")


def test_an_object_that_is_neither_is_refused_by_key():
    with pytest.raises(UsageError, match="optim.lr: <object object at .* is neither a value nor a search space"):
        to_plain(KEY, object())


def _autogluon(monkeypatch):
    """Classes as autogluon.common.space has them: Bool is an Int from 0 to 1, defaults are never None."""
    module = types.ModuleType("autogluon.common.space")

    class Space:
        def __init__(self, default=None, **values):
            self.__dict__.update(values)
            self.default = default

    kinds = {"Space": Space}
    for name, base in (("Real", "Space"), ("Int", "Space"), ("Bool", "Int"), ("Categorical", "Space")):
        kinds[name] = type(name, (kinds[base],), {})
    for kind in kinds.values():
        kind.__module__ = module.__name__
    module.__dict__.update(kinds)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_autogluons_by_their_class(monkeypatch):
    ag = _autogluon(monkeypatch)
    assert to_plain(KEY, ag.Real(1e-4, lower=1e-4, upper=1e-2, log=True)) == {
        "loguniform": [1e-4, 1e-2],
        "default": 1e-4,
    }
    assert to_plain(KEY, ag.Int(1, lower=1, upper=4)) == {"randint": [1, 5], "default": 1}
    assert to_plain(KEY, ag.Bool(0, lower=0, upper=1)) == {"choice": [False, True], "default": False}
    inner = ag.Categorical("a", data=["a", ag.Int(1, lower=1, upper=2)])
    assert to_plain(KEY, inner) == {"choice": ["a", 1, 2], "default": "a"}


def test_ray_tunes_domains():
    tune = pytest.importorskip("ray.tune")
    assert to_plain(KEY, tune.uniform(0.1, 1)) == {"uniform": [0.1, 1]}
    assert to_plain(KEY, tune.loguniform(1e-4, 1)) == {"loguniform": [1e-4, 1]}
    assert to_plain(KEY, tune.quniform(0, 1, 0.25)) == {"quniform": [0, 1, 0.25]}
    assert to_plain(KEY, tune.randint(1, 5)) == {"randint": [1, 5]}
    assert to_plain(KEY, tune.lograndint(1, 10)) == {"lograndint": [1, 10]}
    assert to_plain(KEY, tune.qrandint(0, 10, 5)) == {"choice": [0, 5, 10]}  # Ray's includes the upper end
    assert to_plain(KEY, tune.choice(["a", ["b"], tune.choice([1])])) == {"choice": ["a", ["b"], 1]}
    nested = tune.choice([tune.loguniform(1e-4, 1), 0.0, tune.choice([tune.uniform(2, 3)])])
    assert to_plain(KEY, nested) == {"choice": [{"loguniform": [1e-4, 1]}, 0.0, {"uniform": [2, 3]}]}
    sections = tune.choice([{"turn_on": False}, {"turn_on": True, "prob": tune.uniform(0, 1)}])
    assert to_plain("data.mixup", sections)["choice"][1] == {"turn_on": True, "prob": {"uniform": [0, 1]}}
    for domain in (tune.randn(), tune.sample_from(lambda config: 1), tune.qloguniform(1e-3, 1, 1e-3)):
        assert is_domain(domain)
        with pytest.raises(UsageError, match="optim.lr: Ray Tune's .* cannot be searched here; use uniform"):
            to_plain(KEY, domain)
