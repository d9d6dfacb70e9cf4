"""Going on where a trial was cut off: exactly, to the bit, from whatever is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hpo.errors import TrialError
from hpo.trial import Training, train

ROOT = Path(__file__).resolve().parents[2]

# All that has randomness or a memory: order, crops, flips, dropout, stochastic depth, momentum, schedule.
KEYS = {
    "optim.optim_type": "sgd",
    "optim.lr": 0.05,
    "optim.max_epochs": 6,
    "model.timm_image.drop_rate": 0.2,
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.drop_path_rate": 0.2,
    "env.per_gpu_batch_size": 16,
}
TIMES = ("seconds", "images_per_second")


def collect(config, data, directory, until=99):
    """The metrics of each epoch up to `until`, without times."""
    seen = []

    def report(metrics):
        seen.append({name: value for name, value in metrics.items() if name not in TIMES})
        return metrics["epoch"] < until

    train(config, data, directory, report)
    return seen


def weights(directory, epoch):
    return load_file(directory / "checkpoint" / f"last-{epoch:04d}" / "weights.safetensors")


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"optim.optim_type": "adamw", "env.precision": "bf16"},
        {"model.timm_image.checkpoint_name": "test_vit"},
        {"optim.ema_decay": 0.99, "optim.ema_warmup": True},
        {"optim.ema_decay": 0.9, "env.precision": "bf16", "data.mixup.turn_on": True, "data.random_erasing.prob": 0.5},
        {"optim.peft": "lora"},
        {"model.timm_image.checkpoint_name": "test_vit", "optim.peft": "lora_norm", "optim.ema_decay": 0.9},
        {"optim.peft": "bit_fit", "optim.loss_func": "focal_loss", "optim.gradient_clip_algorithm": "agc"},
        {
            "model.timm_image.train_transforms": ["random_crop", "rand-m9-mstd0.5", "augmix-m3", "trivial_augment"],
            "optim.optim_type": "adamw",
            "optim.betas": [0.8, 0.95],
            "optim.lr_decay": 0.8,
            "optim.lr_mult": 2.0,
            "env.num_workers": 3,
        },
    ],
    ids=["sgd", "adamw-bf16", "vit", "ema", "ema-mixup-erasing", "lora", "lora-ema", "focal-agc", "policies"],
)
def test_three_epochs_and_three_are_six(raw_data, configure, tmp_path, keys):
    config = configure({**KEYS, **keys})
    whole = collect(config, raw_data, tmp_path / "whole")
    torch.manual_seed(12345)  # what the second process does not share with the first
    parts = collect(config, raw_data, tmp_path / "parts", until=3)
    torch.rand(1000)
    parts += collect(config, raw_data, tmp_path / "parts")
    assert parts == whole
    assert_equal_weights(weights(tmp_path / "parts", 6), weights(tmp_path / "whole", 6))
    meta = [(tmp_path / name / "checkpoint" / "last-0006" / "meta.json").read_bytes() for name in ("whole", "parts")]
    assert meta[0] == meta[1]


def test_killed_in_mid_epoch(jpeg_data, configure, tmp_path):
    config = configure({**KEYS, "optim.max_epochs": 8, "model.timm_image.image_size": 32})
    command = [sys.executable, "-m", "hpo.trial", "--data", jpeg_data, "--out", tmp_path / "killed"]
    for name, value in config.to_flat().items():
        if value is not None:
            command += ["--set", f"{name}={','.join(value) if isinstance(value, list) else value}"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert lines[2].startswith("epoch 3/8")
    with Training(config, jpeg_data, tmp_path / "killed") as training:
        assert 3 <= training.epoch < 8
    collect(config, jpeg_data, tmp_path / "killed")
    collect(config, jpeg_data, tmp_path / "whole")
    assert_equal_weights(weights(tmp_path / "killed", 8), weights(tmp_path / "whole", 8))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", "flip"),
        ("state.pt", "cut"),
        ("meta.json", "flip"),
        ("weights.safetensors", "gone"),
        ("MANIFEST.json", "gone"),
        ("MANIFEST.json", "cut"),
    ],
)
def test_damaged_last_checkpoint_falls_back_to_the_one_before(raw_data, configure, tmp_path, name, damage):
    config = configure({"model.timm_image.checkpoint_name": "test_vit", "optim.max_epochs": 3})
    collect(config, raw_data, tmp_path, until=2)
    file = tmp_path / "checkpoint" / "last-0002" / name
    content = file.read_bytes()
    file.unlink()  # best-0002 may share the bytes
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        file.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with Training(config, raw_data, tmp_path) as training:
        assert training.epoch == 1
    assert "last-0002 is damaged" in (tmp_path / "log.txt").read_text()


def test_fallback_writes_the_damaged_epoch_again(raw_data, configure, tmp_path):
    config = configure({"optim.max_epochs": 3})
    collect(config, raw_data, tmp_path / "whole")
    collect(config, raw_data, tmp_path / "damaged", until=2)
    (tmp_path / "damaged" / "checkpoint" / "last-0002" / "state.pt").write_bytes(b"")
    collect(config, raw_data, tmp_path / "damaged")
    assert_equal_weights(weights(tmp_path / "damaged", 3), weights(tmp_path / "whole", 3))


def test_only_damaged_checkpoints_is_a_start_from_scratch(raw_data, configure, tmp_path):
    collect(configure(), raw_data, tmp_path, until=1)
    (tmp_path / "checkpoint" / "last-0001" / "MANIFEST.json").unlink()
    with Training(configure(), raw_data, tmp_path) as training:
        assert training.epoch == 0


def test_resumed_training_knows_its_last_metrics(raw_data, configure, tmp_path):
    seen = collect(configure(), raw_data, tmp_path, until=1)
    with Training(configure(), raw_data, tmp_path) as training:
        known = {name: value for name, value in training.metrics.items() if name not in TIMES}
        assert known == seen[0]
        assert (training.best_epoch, training.best_value) == (1, seen[0]["val_accuracy"])


def test_weights_are_not_looked_for_again(raw_data, configure, tmp_path):
    """The node that goes on need not have the cache of the first."""
    collect(configure(), raw_data, tmp_path, until=1)
    config = configure({"model.timm_image.pretrained": "auto"})
    with Training(config, raw_data, tmp_path) as training:
        assert training.epoch == 1


def test_other_data_or_another_model_is_refused(raw_data, jpeg_data, configure, tmp_path):
    collect(configure(), raw_data, tmp_path, until=1)
    with pytest.raises(TrialError, match="other data"):
        Training(configure({"model.timm_image.image_size": 32}), jpeg_data, tmp_path)
    with pytest.raises(TrialError, match=r"last-0001 is not of test_resnet .*train in a new directory") as refused:
        Training(configure({"model.timm_image.checkpoint_name": "test_resnet"}), raw_data, tmp_path)
    assert "\n" not in str(refused.value)
