"""Micro-batches: the same update in smaller pieces, halved when the device has no more memory."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hpo.config import SweepConfig
from hpo.microbatches import MicroBatches, remembered_micro_batch
from hpo.space import Space
from hpo.trial import Training, train
from hpo.trial import training as training_module
from hpo.trial.compute import OutOfMemory, cut_evenly
from hpo.tuneconfig import TuneConfig

VIT = {"model.timm_image.checkpoint_name": "test_vit", "model.timm_image.drop_rate": 0.0}


@pytest.fixture
def limit_memory(monkeypatch):
    """Makes models that run out of memory above so many images: what a GPU does, which is not here."""

    def limit(images, error=None):
        real = training_module.build_model

        def create(*arguments):
            model, feed = real(*arguments)

            def refuse(module, inputs):
                if len(inputs[0]) > images:
                    raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

            model.register_forward_pre_hook(refuse)
            return model, feed

        monkeypatch.setattr(training_module, "build_model", create)

    return limit


def final_weights(config, data, directory):
    with Training(config, data, directory) as training:
        while not training.finished:
            metrics = training.run_epoch()
        return metrics, {name: value.clone() for name, value in training._compute.model.state_dict().items()}


def test_pieces_add_up_to_the_same_update(raw_data, configure, tmp_path):
    """A ViT has no batch statistics, so that only the order of sums differs."""
    whole = final_weights(configure({**VIT, "optim.optim_type": "sgd"}), raw_data, tmp_path / "whole")
    keys = {**VIT, "optim.optim_type": "sgd", "env.per_gpu_batch_size": 12}  # 10, 11 and 11 of 32
    parts = final_weights(configure(keys), raw_data, tmp_path / "parts")
    assert (whole[0]["micro_batch"], parts[0]["micro_batch"]) == (32, 12)
    assert parts[0]["train_loss"] == pytest.approx(whole[0]["train_loss"], abs=1e-5)
    for name, value in whole[1].items():
        assert torch.allclose(parts[1][name], value, atol=1e-5), name


def test_no_piece_is_a_single_image(raw_data, configure, tmp_path):
    """Of 25 images by 8 one would be left, and a batch norm of one by one pixel has no variance then."""
    keys = {"env.batch_size": 25, "env.per_gpu_batch_size": 8}
    metrics, _ = final_weights(configure(keys), raw_data, tmp_path)
    assert math.isfinite(metrics["train_loss"])
    for count, most in itertools.product(range(1, 40), range(1, 40)):
        pieces = cut_evenly(count, most)
        sizes = [last - first for first, last in pieces]
        assert [first for first, _ in pieces] == [0, *(last for _, last in pieces)][:-1]
        assert pieces[-1][1] == count
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert len(pieces) == -(-count // most)


def test_out_of_memory_halves_and_goes_on_exactly(raw_data, configure, tmp_path, limit_memory):
    asked = final_weights(configure({"env.per_gpu_batch_size": 8}), raw_data, tmp_path / "asked")
    limit_memory(10)
    halved = final_weights(configure(), raw_data, tmp_path / "halved")
    assert halved[0]["micro_batch"] == 8
    assert halved[0]["train_loss"] == asked[0]["train_loss"]
    assert all(torch.equal(halved[1][name], value) for name, value in asked[1].items())
    assert "going on with 8 images at a time" in (tmp_path / "halved" / "log.txt").read_text()


def test_libraries_that_get_no_memory_are_told_from_what_fails_otherwise(raw_data, configure, tmp_path, limit_memory):
    """cuBLAS takes memory beside torch's allocator, which on a shared GPU another trial may have taken."""
    limit_memory(16, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    with Training(configure(), raw_data, tmp_path / "full") as training:
        assert training.run_epoch()["micro_batch"] == 16
    limit_memory(8, RuntimeError("CUDA error: device-side assert triggered"))  # of the 16 that fit
    with (
        Training(configure(), raw_data, tmp_path / "other") as training,
        pytest.raises(RuntimeError, match="device-side assert"),
    ):
        training.run_epoch()


def test_resumed_trial_does_not_try_again(raw_data, configure, tmp_path, limit_memory):
    limit_memory(10)
    train(configure(), raw_data, tmp_path, lambda metrics: False)
    with Training(configure(), raw_data, tmp_path) as training:
        assert training._compute.micro_batch == 8


def test_found_micro_batch_is_where_the_next_trial_begins(raw_data, configure, tmp_path, limit_memory):
    """With no second failure, unless it is of another model, which finds its own."""
    about = {"name": "s", "task": "classification", "metric": "val_accuracy", "mode": "max", "seed": 0}
    config = SweepConfig(**about, data=raw_data, space=Space((), {}), tune=TuneConfig())
    path, keys = tmp_path / "micro_batches.json", {"model.timm_image.pretrained": "false", "env.batch_size": 32}

    def pieces(model, folder):
        params = {**keys, "model.timm_image.checkpoint_name": model}
        with Training(configure(params), raw_data, tmp_path / folder, micro_batches=path) as training:
            metrics = {**training.run_epoch(), "device": training.device}
            suggested = {"type": "suggested", "trial": folder, "params": params}
            MicroBatches(config, path, [suggested, {"type": "reported", "trial": folder, "metrics": metrics}])
        return metrics["micro_batch"], (tmp_path / folder / "log.txt").read_text().count("images at a time")

    limit_memory(10)
    assert pieces("test_efficientnet", "0000") == (8, 2)
    assert pieces("test_efficientnet", "0001") == (8, 0)
    assert pieces("test_vit", "0002") == (8, 2)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1, "found": [{"micro_batch": "many"}]}'])
def test_unreadable_memory_is_no_obstacle(configure, tmp_path, content):
    (tmp_path / "micro_batches.json").write_text(content)
    assert remembered_micro_batch(tmp_path / "micro_batches.json", configure(), "cpu") == 32


def test_not_even_one_image_is_an_error_of_its_kind(raw_data, configure, tmp_path, limit_memory):
    limit_memory(0)
    with (
        Training(configure(), raw_data, tmp_path) as training,
        pytest.raises(OutOfMemory, match="not even one image of 32 pixels") as failed,
    ):
        training.run_epoch()
    assert failed.value.kind == "oom"
    assert failed.value.exit_code == 5
