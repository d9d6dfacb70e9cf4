"""A training as a whole: that it learns, reports, ends itself, and leaves its process fit for the next."""

from __future__ import annotations

import math
import threading
import weakref

import pytest
import torch

from hpo.data.read import open_split
from hpo.errors import TrialError
from hpo.trial import Training, train
from hpo.trial.task import create_task

REPORTED = {
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "val_f1_macro",
    "val_roc_auc",
    "lr",
    "seconds",
    "images_per_second",
    "micro_batch",
    "checkpoint",
}


def test_learns_photographs(demo_data, configure, tmp_path):
    keys = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.train_transforms": ["random_horizontal_flip"],
        "env.batch_size": 64,
        "optim.max_epochs": 2,
    }
    result = train(configure(keys), demo_data, tmp_path, lambda metrics: True)
    assert result.best_value > 0.4  # the most frequent class makes 0.24 of the validation split
    assert result.reason == "max_epochs"


def test_reports_each_epoch(raw_data, configure, tmp_path):
    with Training(configure(), raw_data, tmp_path) as training:
        assert (training.epoch, training.max_epochs, training.finished) == (0, 2, "")
        metrics = training.run_epoch()
        assert set(metrics) == REPORTED
        assert metrics["epoch"] == training.epoch == 1
        assert metrics["val_accuracy"] * 32 == pytest.approx(round(metrics["val_accuracy"] * 32))
        assert (tmp_path / metrics["checkpoint"]).is_dir()
        assert metrics["images_per_second"] > metrics["micro_batch"] * 2 / metrics["seconds"]
        training.run_epoch()
        assert training.finished == "max_epochs"
    assert "epoch 2: train_loss" in (tmp_path / "log.txt").read_text()


def test_caller_can_stop(raw_data, configure, tmp_path):
    result = train(configure({"optim.max_epochs": 9}), raw_data, tmp_path, lambda metrics: metrics["epoch"] < 2)
    assert (result.reason, result.epoch) == ("stopped", 2)


def test_finished_training_reports_its_last_epoch_again(raw_data, configure, tmp_path):
    with Training(configure(), raw_data, tmp_path) as training:
        last = [training.run_epoch() for _ in range(2)][-1]
        assert training.run_epoch() == last
    with Training(configure(), raw_data, tmp_path) as again:
        assert again.epoch == 2
        assert again.run_epoch() == last == again.metrics


def test_each_epoch_shows_other_crops(raw_data, configure, tmp_path):
    keys = {"model.timm_image.checkpoint_name": "test_vit", "optim.lr": 0, "env.batch_size": 80, "optim.max_epochs": 3}
    losses = []
    train(configure(keys), raw_data, tmp_path, lambda metrics: losses.append(metrics["train_loss"]) or True)
    assert len(set(losses)) == 3  # the weights never change


def test_patience(raw_data, configure, tmp_path):
    keys = {"optim.lr": 0, "optim.weight_decay": 0, "optim.max_epochs": 9, "optim.patience": 2}
    result = train(configure(keys, metric="val_accuracy"), raw_data, tmp_path, lambda metrics: True)
    assert result.reason == "patience: no better val_accuracy for 2 epochs"
    assert result.epoch == result.best_epoch + 2 < 9


def test_divergence_ends_without_a_checkpoint(raw_data, configure, tmp_path):
    keys = {"optim.lr": 1e30, "optim.optim_type": "sgd", "optim.gradient_clip_val": 0, "optim.warmup_steps": 0}
    result = train(configure(keys), raw_data, tmp_path, lambda metrics: True)
    assert result.reason == "diverged: train_loss is not finite"
    assert math.isnan(result.metrics["val_accuracy"])
    assert result.metrics["checkpoint"] == ""
    assert not list((tmp_path / "checkpoint").iterdir())


def test_several_trials_in_one_process(raw_data, configure, tmp_path):
    """Accelerate keeps the first trial's precision for good unless it is reset; threads and models must go."""
    losses, models = {}, []
    runs = [("test_vit", "32"), ("test_vit", "bf16"), ("test_resnet", "16"), ("test_vit", "32")]
    for number, (model, precision) in enumerate(runs):
        keys = {"model.timm_image.checkpoint_name": model, "env.precision": precision}
        with Training(configure(keys), raw_data, tmp_path / str(number)) as training:
            models.append(weakref.ref(training._compute.model))
            losses[number] = training.run_epoch()["train_loss"]
        assert models[-1]() is None
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("slurmtune-loader")]
    assert losses[0] == losses[3]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert "training in 32 bits on the CPU" in (tmp_path / "2" / "log.txt").read_text()
    assert "training in 32 bits" not in (tmp_path / "3" / "log.txt").read_text()


def test_focal_loss(raw_data, configure):
    """Against the formula of the paper, and against cross entropy where it becomes that."""
    shards = open_split(raw_data, "train")
    outputs, targets = torch.randn(9, 4), torch.arange(9) % 4
    plain = create_task(shards, configure()).loss(outputs, targets)
    focal = {"optim.loss_func": "focal_loss"}
    same = create_task(shards, configure({**focal, "optim.focal_loss.gamma": 0})).loss(outputs, targets)
    assert same.item() == pytest.approx(plain.item(), rel=1e-6)
    alpha = [0.1, 1.0, 2.0, 3.0]
    task = create_task(shards, configure({**focal, "optim.focal_loss.gamma": 3, "optim.focal_loss.alpha": alpha}))
    right = outputs.softmax(1)[torch.arange(9), targets]
    expected = (torch.tensor(alpha)[targets] * (1 - right) ** 3 * -right.log()).mean()
    assert task.loss(outputs, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    smooth = {"optim.label_smoothing": 0.2}
    smoothed = create_task(shards, configure({**focal, **smooth, "optim.focal_loss.gamma": 0})).loss(outputs, targets)
    assert smoothed.item() == pytest.approx(
        create_task(shards, configure(smooth)).loss(outputs, targets).item(), rel=1e-6
    )
    assert smoothed.item() != pytest.approx(plain.item(), rel=1e-3)
    with pytest.raises(TrialError, match="alpha has 2 weights, but the labels have 4 classes"):
        create_task(shards, configure({**focal, "optim.focal_loss.alpha": [1, 2]}))


def test_focal_loss_is_of_classes(brightness_data, configure, tmp_path):
    with pytest.raises(TrialError, match="optim.loss_func is focal_loss, but these labels are numbers"):
        Training(configure({"optim.loss_func": "focal_loss"}, metric="val_rmse", mode="min"), brightness_data, tmp_path)


def test_bf16_computes_in_bf16(raw_data, configure, tmp_path):
    seen = []
    keys = {"env.precision": "bf16", "model.timm_image.checkpoint_name": "test_vit"}
    with Training(configure(keys), raw_data, tmp_path) as training:
        block = training._compute.model.blocks[0].attn.qkv
        block.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        training.run_epoch()
        assert {weight.dtype for weight in training._compute.model.parameters()} == {torch.float32}
    assert set(seen) == {torch.bfloat16}


def test_regression(brightness_data, configure, tmp_path):
    keys = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "optim.lr": 2e-3,
        "optim.max_epochs": 12,
        "model.timm_image.train_transforms": ["random_horizontal_flip"],
        "env.batch_size": 16,
    }
    result = train(configure(keys, metric="val_rmse", mode="min"), brightness_data, tmp_path, lambda metrics: True)
    assert {"val_loss", "val_rmse", "val_mae", "val_r2"} < set(result.metrics)
    assert result.metrics["val_r2"] > 0.3, result  # the mean of the labels makes 0
    assert 0 < result.metrics["val_mae"] <= result.metrics["val_rmse"] < 60  # in units of brightness


def test_jpeg_shards(jpeg_data, configure, tmp_path):
    keys = {"model.timm_image.image_size": 40}
    with Training(configure(keys), jpeg_data, tmp_path) as training:
        assert training.run_epoch()["train_loss"] < 3


def test_image_size_defaults_to_the_models_own_for_jpeg(jpeg_data, configure, tmp_path):
    with Training(configure(), jpeg_data, tmp_path) as training:
        assert training._feed.size == 160


@pytest.mark.parametrize(
    ("keys", "fields", "words"),
    [
        ({"model.timm_image.checkpoint_name": "test_resnot"}, {}, "Did you mean 'test_resnet'?"),
        ({"model.timm_image.checkpoint_name": "test_resnet.r160_in2k"}, {}, "Did you mean 'test_resnet.r160_in1k'?"),
        ({"model.timm_image.checkpoint_name": "vgg11", "model.timm_image.drop_path_rate": 0.1}, {}, "no such option"),
        ({"model.timm_image.drop_path_rate": 0.1}, {}, "test_efficientnet has no stochastic depth"),
        ({"model.timm_image.checkpoint_name": "test_vit", "model.timm_image.image_size": 40}, {}, "40"),
        ({"optim.optim_type": "adamww"}, {}, "Did you mean 'adamw'?"),
        ({}, {"metric": "val_acuracy"}, "Did you mean 'val_accuracy'?"),
        ({}, {"metric": "val_rmse"}, "choose of train_loss, val_loss, val_accuracy"),
    ],
)
def test_what_cannot_be_trained_is_refused_on_one_line(raw_data, configure, tmp_path, keys, fields, words):
    with pytest.raises(TrialError) as refused:
        Training(configure(keys, **fields), raw_data, tmp_path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
