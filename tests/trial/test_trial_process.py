"""A process that stays from trial to trial: paused trainings in its memory, and when it has served long enough."""

from __future__ import annotations

import pytest
import torch

from hpo.errors import UsageError
from hpo.trial import Training, wear
from hpo.trial.paused import PAUSED_VARIABLE, PausedTrainings
from hpo.trial.wear import LEAK_VARIABLE, TRIALS_VARIABLE, Wear

KEYS = {"optim.max_epochs": 3, "optim.ema_decay": 0.9, "model.timm_image.drop_rate": 0.2}
OTHER = {"model.timm_image.checkpoint_name": "test_vit", "env.precision": "bf16", "optim.optim_type": "sgd"}
TIMES = ("seconds", "images_per_second")


def shown(metrics):
    return {name: value for name, value in metrics.items() if name not in TIMES}


def weights(training):
    return {name: value.clone() for name, value in training._compute.weights().items()}


@pytest.fixture
def whole(raw_data, configure, tmp_path):
    """Metrics of all epochs, and the weights, of a training that nothing interrupts."""
    with Training(configure(KEYS), raw_data, tmp_path / "whole") as training:
        return [shown(training.run_epoch()) for _ in range(3)], weights(training)


def test_a_paused_training_goes_on_exactly_from_memory(raw_data, configure, tmp_path, whole):
    """Another precision, model and optimiser come in between, as in a sweep."""
    paused, ticks = PausedTrainings(), []
    first = Training(configure(KEYS), raw_data, tmp_path / "a")
    seen = [shown(first.run_epoch())]
    paused.put("a", first)
    with Training(configure(OTHER), raw_data, tmp_path / "b") as other:
        other.run_epoch()
        assert (other._compute._accelerator.mixed_precision, paused.bytes) == ("bf16", first.resident_bytes)
    again = paused.take("a")
    assert again is first
    again.resume(lambda: ticks.append(1))
    assert again._compute._accelerator.mixed_precision == "no"
    seen += [shown(again.run_epoch()) for _ in range(2)]
    assert seen == whole[0]
    assert all(torch.equal(value, whole[1][name]) for name, value in weights(again).items())
    assert ticks
    log = (tmp_path / "a" / "log.txt").read_text()
    assert log.count("epoch 3:") == 1
    assert "test_vit" not in log
    again.close()


def test_one_that_went_on_elsewhere_is_not_taken(raw_data, configure, tmp_path):
    paused = PausedTrainings()
    first = Training(configure(KEYS), raw_data, tmp_path / "a")
    first.run_epoch()
    paused.put("a", first)
    with Training(configure(KEYS), raw_data, tmp_path / "a") as elsewhere:
        elsewhere.run_epoch()
        assert paused.take("a") is None
        assert elsewhere.run_epoch()["epoch"] == 3  # what was closed beside it took nothing from it


@pytest.mark.parametrize(("megabytes", "held"), [("512", {"a", "b", "c"}), ("10", {"b", "c"}), ("0", set())])
def test_the_oldest_make_room(raw_data, configure, tmp_path, monkeypatch, megabytes, held):
    """Each takes 4.6 MiB: weights, their average and two moments of test_vit."""
    monkeypatch.setenv(PAUSED_VARIABLE, megabytes)
    paused = PausedTrainings()
    for name in "abc":
        keys = {**KEYS, "model.timm_image.checkpoint_name": "test_vit"}
        training = Training(configure(keys), raw_data, tmp_path / name)
        training.run_epoch()
        assert 4 * 2**20 < training.resident_bytes < 5 * 2**20
        paused.put(name, training)
    assert set(paused._held) == held
    paused.close()


def test_a_process_serves_so_many_trials(monkeypatch):
    monkeypatch.setenv(TRIALS_VARIABLE, "3")
    used, reasons = Wear(), []
    for _ in range(3):
        used.begin_trial()
        reasons.append(used.reason)
        used.end_trial()
    assert reasons == ["", "", "it has run 3 trials"]
    monkeypatch.setenv(TRIALS_VARIABLE, "few")
    with pytest.raises(
        UsageError, match="SLURMTUNE_TRIALS_PER_PROCESS must be a whole number of at least 1, got 'few'"
    ):
        Wear()


def test_a_leak_is_measured(monkeypatch):
    monkeypatch.setenv(LEAK_VARIABLE, "50")
    used, leaked = Wear(), []

    def trial(mebibytes, kept=0):
        used.begin_trial()
        leaked.append(bytearray(b"x") * (mebibytes * 2**20))
        used.end_trial(kept * 2**20)
        return used.reason

    assert trial(200) == ""  # what the first trial leaves is what a warm process is for
    assert trial(5) == ""
    assert trial(100, kept=100) == ""  # of a paused trial
    assert trial(10, kept=100) == trial(10, kept=100) == ""
    assert "its memory grew by" in trial(150, kept=100)


def test_what_was_freed_is_no_leak(monkeypatch):
    before = wear.measure_memory()["memory"]
    freed = [bytearray(1000) for _ in range(100_000)]
    del freed
    assert wear.measure_memory()["memory"] - before < 40 * 2**20
