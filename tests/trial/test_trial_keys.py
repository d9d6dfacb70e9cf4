"""Every key of TrialConfig does something: its default and another value give different trainings."""

from __future__ import annotations

import hashlib
import threading

import pytest
import torch

from hpo.errors import TrialError
from hpo.trial import Training
from hpo.trialconfig import is_of_tables, known_keys

# Each key with a value other than its default, and the metrics or effects that tell the two apart.
OTHERS = {
    "optim.optim_type": "sgd",
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.5,
    "optim.momentum": 0.1,
    "optim.betas": [0.5, 0.9],
    "optim.eps": 0.1,
    "optim.max_epochs": 1,
    "optim.warmup_steps": 3,
    "optim.lr_schedule": "constant",
    "optim.end_lr": 2e-3,
    "optim.lr_mult": 3.0,
    "optim.gradient_clip_val": 0.01,
    "optim.gradient_clip_algorithm": "agc",
    "optim.loss_func": "focal_loss",
    "optim.extra_trainable_params": [r"norm\.weight$"],
    "optim.ema_decay": 0.9,
    "optim.ema_warmup": False,
    "optim.lora.r": 2,
    "optim.lora.alpha": 32.0,
    "optim.lora.filter": ["fc1"],
    "optim.focal_loss.alpha": [0.1, 1.0, 1.0, 3.0],
    "optim.focal_loss.gamma": 0.5,
    "optim.label_smoothing": 0.3,
    "optim.lr_decay": 0.7,
    "optim.patience": 1,
    "optim.peft": "bit_fit",
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": "/no/such/file.pth",
    "model.timm_image.image_size": 48,
    "model.timm_image.drop_rate": 0.5,
    "model.timm_image.drop_path_rate": 0.5,
    "model.timm_image.train_transforms": ["random_crop"],
    "model.timm_image.crop_scale": 0.9,
    "model.timm_image.crop_pct": 0.8,
    "model.timm_image.interpolation": "bicubic",
    "model.timm_image.image_norm": "clip",
    "env.batch_size": 16,
    "env.per_gpu_batch_size": 8,
    "env.precision": "bf16",
    "env.accelerator": "gpu",
    "env.num_workers": 3,
    "env.shuffle": "blocks",
    "data.mixup.turn_on": True,
    "data.mixup.mixup_alpha": 0.1,
    "data.mixup.cutmix_alpha": 0.1,
    "data.mixup.prob": 0.1,
    "data.mixup.switch_prob": 1.0,
    "data.mixup.turn_off_epoch": 1,
    "data.random_erasing.prob": 0.5,
    "data.random_erasing.mode": "const",
    "data.random_erasing.count": 3,
    "data.random_erasing.max_area": 0.05,
}
_VIT = {"model.timm_image.checkpoint_name": "test_vit"}
_MIXED = {"data.mixup.turn_on": True}
BASES = {  # where the key needs company to matter
    **{key: _MIXED for key in OTHERS if key.startswith("data.mixup.") and key not in _MIXED},
    "data.mixup.mixup_alpha": {**_MIXED, "data.mixup.switch_prob": 0.0},
    "data.mixup.cutmix_alpha": {**_MIXED, "data.mixup.switch_prob": 1.0},
    **{key: {**_VIT, "optim.peft": "lora"} for key in OTHERS if key.startswith("optim.lora.")},
    **{key: {"optim.loss_func": "focal_loss"} for key in OTHERS if key.startswith("optim.focal_loss.")},
    **{key: {"data.random_erasing.prob": 1.0} for key in OTHERS if key.startswith("data.random_erasing.")},
    "data.random_erasing.prob": {},
    "optim.extra_trainable_params": {**_VIT, "optim.peft": "linear_probe"},
    "optim.ema_warmup": {"optim.ema_decay": 0.9},
    "optim.momentum": {"optim.optim_type": "sgd"},
    "optim.patience": {"optim.lr": 0, "optim.max_epochs": 3, **_VIT},
    "model.timm_image.drop_path_rate": _VIT,
}


def observe(config, data, directory):
    """All that a training shows: metrics without times, weights, reason, threads; or why it was refused."""
    try:
        with Training(config, data, directory) as training:
            shown = []
            while not training.finished:
                metrics = training.run_epoch()
                shown.append({name: value for name, value in metrics.items() if "second" not in name})
            weights = b"".join(value.numpy().tobytes() for value in training._compute.model.cpu().state_dict().values())
            readers = [t for t in threading.enumerate() if t.name.startswith("slurmtune-loader")]
            return shown, hashlib.sha256(weights).hexdigest(), training.finished, len(readers)
    except TrialError as error:
        return str(error)


def test_no_key_is_left_out():
    of_tables = {key for key in known_keys() if is_of_tables(key)}  # see test_trial_table.py
    of_others = {"env.compile"}  # see test_trial_compile.py
    assert set(OTHERS) == set(known_keys()) - of_tables - of_others


@pytest.fixture(scope="module")
def seen():
    return {}


@pytest.mark.parametrize("key", OTHERS)
def test_key_changes_the_training(raw_data, configure, tmp_path, key, seen):
    base = BASES.get(key, {})
    place = str(sorted(base.items()))
    if place not in seen:
        seen[place] = observe(configure(base), raw_data, tmp_path / "base")
    other = observe(configure({**base, key: OTHERS[key]}), raw_data, tmp_path / "other")
    assert not isinstance(seen[place], str)
    assert other != seen[place]


@pytest.mark.parametrize("key", ["env.num_workers"])
def test_key_that_must_not_change_results(raw_data, configure, tmp_path, key):
    first = observe(configure(), raw_data, tmp_path / "first")
    second = observe(configure({key: OTHERS[key]}), raw_data, tmp_path / "second")
    assert first[:3] == second[:3]


def test_fields_beside_the_keys(raw_data, configure, tmp_path):
    plain = observe(configure(), raw_data, tmp_path / "plain")
    assert observe(configure(seed=1), raw_data, tmp_path / "seed")[1] != plain[1]
    with Training(configure(metric="val_loss", mode="min", num_to_keep=1), raw_data, tmp_path / "loss") as training:
        losses = [training.run_epoch()["val_loss"] for _ in range(2)]
        assert training.best_value == min(losses)
    assert len(list((tmp_path / "loss" / "checkpoint").glob("best-*"))) == 1


def test_same_configuration_gives_the_same_weights(raw_data, configure, tmp_path):
    first = observe(configure(), raw_data, tmp_path / "first")
    torch.rand(10)
    assert observe(configure(), raw_data, tmp_path / "second") == first
