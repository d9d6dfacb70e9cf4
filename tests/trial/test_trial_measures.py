"""What is measured before a training, and that nothing beyond a limit is trained."""

from __future__ import annotations

import dataclasses

import pytest
import timm

from hpo.failures import classify, describe
from hpo.trial import Training
from hpo.trial.measures import InfeasibleError


def limited(config, **limits):
    return dataclasses.replace(config, constraints=limits)


def test_a_model_beyond_a_limit_is_not_trained(demo_data, configure, tmp_path):
    with pytest.raises(InfeasibleError) as caught:
        Training(limited(configure({}), parameters=1000.0), demo_data, tmp_path)
    assert classify(caught.value) == "infeasible"
    assert "is over the 1000 of constraints" in describe(caught.value)
    with pytest.raises(InfeasibleError, match="latency_ms of"):
        Training(limited(configure({}), latency_ms=1e-6), demo_data, tmp_path)
    assert not list(tmp_path.glob("checkpoint/*"))


def test_measures_are_reported_and_judged_once(demo_data, configure, tmp_path):
    config = limited(configure({"optim.max_epochs": 2}), parameters=1e9, latency_ms=1e9)
    with Training(config, demo_data, tmp_path) as training:
        first = training.run_epoch()
    classes = 10
    expected = timm.create_model("test_efficientnet", num_classes=classes)
    outputs = expected.get_classifier()
    per_class = outputs.in_features + 1
    body = sum(p.numel() for p in expected.parameters()) - classes * per_class
    assert (first["parameters"] - body) % per_class == 0
    assert first["latency_ms"] > 0
    stricter = limited(config, parameters=1.0, latency_ms=1e-6)  # as a slower moment would make of the same limit
    with Training(stricter, demo_data, tmp_path) as training:
        second = training.run_epoch()
    assert second["epoch"] == 2
    assert (second["parameters"], second["latency_ms"]) == (first["parameters"], first["latency_ms"])


def test_nothing_is_measured_that_nobody_asked_for(demo_data, configure, tmp_path):
    with Training(configure({}), demo_data, tmp_path) as training:
        assert not {"parameters", "latency_ms"} & set(training.run_epoch())
