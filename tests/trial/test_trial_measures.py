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
    assert "is over the 1,000 of constraints" in describe(caught.value)
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


def test_memory_grows_with_the_micro_batch_and_measuring_changes_nothing(demo_data, configure, tmp_path):
    def first_epoch(name, micro, **limits):
        keys = {"env.per_gpu_batch_size": micro, "optim.max_epochs": 1, "model.timm_image.drop_rate": 0.2}
        with Training(limited(configure(keys), **limits), demo_data, tmp_path / name) as training:
            return training.run_epoch()

    plain = first_epoch("plain", 8)
    small, large = first_epoch("small", 8, memory_gb=99.0), first_epoch("large", 16, memory_gb=99.0)
    assert (small["train_loss"], small["val_loss"]) == (plain["train_loss"], plain["val_loss"])
    weights = 8 * sum(p.numel() for p in timm.create_model("test_efficientnet", num_classes=10).parameters()) / 1e9
    ratio = (large["memory_gb"] - weights) / (small["memory_gb"] - weights)
    assert 1.9 < ratio < 2.1
    with pytest.raises(InfeasibleError, match="memory_gb of"):
        first_epoch("limited", 16, memory_gb=1e-6)


def test_rows_of_a_table_are_measured_too(table_data, configure, tmp_path):
    config = configure({"optim.max_epochs": 1, "env.batch_size": 16})
    with Training(limited(config, parameters=1e9, latency_ms=1e9, memory_gb=99.0), table_data, tmp_path) as training:
        measured = training.run_epoch()
    assert measured["parameters"] > 0
    assert measured["latency_ms"] > 0
    assert measured["memory_gb"] > 8 * measured["parameters"] / 1e9
