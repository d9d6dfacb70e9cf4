"""The constraints of a sweep file."""

from __future__ import annotations

import pytest

from hpo.config import build_sweep
from hpo.errors import UsageError
from hpo.measures import parse_constraints, parse_objectives


def test_limits_are_numbers_above_zero():
    assert parse_constraints(None) == {}
    assert parse_constraints({"parameters": 5_000_000, "latency_ms": 2.5}) == {"parameters": 5e6, "latency_ms": 2.5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameter": 1}, "nothing measures 'parameter'. Did you mean 'parameters'?"),
        ({"parameters": 0}, "constraints.parameters must be a number above 0, got 0."),
        ({"parameters": True}, "got True"),
        ({"latency_ms": "fast"}, "got 'fast'"),
        (["parameters"], "constraints must map parameters or latency_ms or memory_gb"),
    ],
)
def test_mistakes_are_told(given, words):
    with pytest.raises(UsageError) as caught:
        parse_constraints(given)
    assert words in str(caught.value)


def test_objectives_are_measures_named_once():
    assert parse_objectives(None) == ()
    assert parse_objectives(["latency_ms", "parameters"]) == ("latency_ms", "parameters")
    for given, words in (
        (["speed"], "objectives: nothing measures 'speed'."),
        (["parameters", "parameters"], "names one twice"),
        ("parameters", "must be a list"),
    ):
        with pytest.raises(UsageError) as caught:
            parse_objectives(given)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"deterministic": 4}, "deterministic: 4 cannot be with latency_ms"),
        ({"plateau": 3}, "plateau looks at the metric alone"),
        ({"scheduler_init_args": {"type": "promotion"}}, "scheduler_init_args.type: promotion looks at"),
        ({"searcher": {"class": "ray.tune.search.optuna.OptunaSearch"}}, "a searcher of Ray Tune's looks at"),
    ],
)
def test_what_looks_at_the_metric_alone_is_refused_beside_objectives(tmp_path, tune, words):
    document = {"data": "bundled:clothing", "objectives": ["latency_ms"], "hyperparameter_tune_kwargs": tune,
                "hyperparameters": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}}  # fmt: skip
    with pytest.raises(UsageError) as caught:
        build_sweep(document, tmp_path, "", tmp_path, "s")
    assert words in str(caught.value)
