"""Mixup, CutMix and partial training: what they do to pixels, loss and parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo.errors import TrialError
from hpo.trial import Training
from hpo.trial.compute import Step
from hpo.trial.mixing import Mixing, draw_mixing
from hpo.trialkeys import MixupConfig

ON = {"data.mixup.turn_on": True}
SIZE = 40


def drawn(count=400, epoch=1, **keys):
    config = MixupConfig(**{"turn_on": True, **keys})
    return [draw_mixing(config, SIZE, 0, epoch, update) for update in range(count)]


def test_shares_and_boxes_are_as_asked():
    assert drawn(turn_on=False) == drawn(mixup_alpha=0.0, cutmix_alpha=0.0) == [None] * 400
    both = drawn()
    assert 140 < sum(mixing.box is None for mixing in both) < 260
    assert all(mixing.box is None for mixing in drawn(cutmix_alpha=0.0))
    assert all(mixing.box is not None for mixing in drawn(switch_prob=1.0))
    assert 60 < sum(mixing is not None for mixing in drawn(prob=0.25)) < 140
    assert np.mean([mixing.share for mixing in drawn(switch_prob=0.0)]) == pytest.approx(0.5, abs=0.06)
    for mixing in drawn(switch_prob=1.0):
        top, left, bottom, right = mixing.box
        assert 0 <= top <= bottom <= SIZE
        assert 0 <= left <= right <= SIZE
        assert mixing.share == pytest.approx(1 - (bottom - top) * (right - left) / SIZE**2)
    assert drawn() == both  # a function of seed and update


def test_it_ends_after_its_last_epoch():
    assert None not in drawn(epoch=5)
    assert drawn(epoch=6) == [None] * 400
    assert None not in drawn(epoch=100, turn_off_epoch=None)


def test_pixels():
    images, partners = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert (Mixing(0.75).apply(images, partners) == 0.25).all()
    cut = Mixing(0.75, (0, 1, 2, 3)).apply(images, partners)
    assert cut[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert not images.any()


@pytest.mark.parametrize("switch", [0.0, 1.0])
def test_pieces_of_a_batch_mix_like_the_whole(raw_data, configure, tmp_path, switch):
    """The partner of an image is the same whatever the micro-batch, so that halving it changes nothing."""
    keys = {
        **ON,
        "data.mixup.switch_prob": switch,
        "model.timm_image.checkpoint_name": "test_vit",
        "optim.max_epochs": 1,
    }
    losses = []
    for micro in (32, 8, 5):
        config = configure({**keys, "env.per_gpu_batch_size": micro})
        with Training(config, raw_data, tmp_path / str(micro)) as training:
            losses.append(training.run_epoch()["train_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_loss_is_of_both_labels(raw_data, configure, tmp_path):
    """An update with share 0 is one on the partners alone: the same batch the other way round."""
    config = configure({"model.timm_image.checkpoint_name": "test_vit"})
    with Training(config, raw_data, tmp_path) as training:
        batch = next(iter(training._loader.training(training._augmentation.at(1))))
        compute = training._compute
        compute.model.eval()
        with torch.no_grad():
            own = compute._loss(batch, batch.opposite(0, len(batch)), Step(0.0))
            partners = compute._loss(batch, batch.opposite(0, len(batch)), Step(0.0, mixing=Mixing(0.0)))
            only = compute._loss(batch, batch.opposite(0, len(batch)), Step(0.0, mixing=Mixing(1.0)))
    assert partners.item() == pytest.approx(own.item(), rel=1e-5)
    assert only.item() == own.item()


def test_numbers_are_not_mixed(brightness_data, configure, tmp_path):
    with pytest.raises(TrialError, match="data.mixup.turn_on is true, but it mixes classes"):
        Training(configure(ON, metric="val_rmse", mode="min"), brightness_data, tmp_path)


@pytest.mark.parametrize("peft", ["linear_probe", "bit_fit", "norm_fit"])
def test_only_the_named_parameters_move(raw_data, configure, tmp_path, peft):
    """And the checkpoint holds all of them: it loads into a model without anything else."""
    keys = {"optim.peft": peft, "model.timm_image.checkpoint_name": "test_vit", "optim.weight_decay": 0.1}
    with Training(configure(keys), raw_data, tmp_path) as training:
        before = {name: value.clone() for name, value in training._compute.model.named_parameters()}
        training.run_epoch()
        moved = {
            name for name, value in training._compute.model.named_parameters() if not torch.equal(value, before[name])
        }
        weights = training._saves.newest().load_weights()
        assert set(weights) == set(training._compute.model.state_dict())
    head = {name for name in before if name.startswith("head.")}
    named = {
        "linear_probe": set(),
        "bit_fit": {name for name in before if name.endswith(".bias")},
        "norm_fit": {name for name in before if "norm" in name},
    }[peft]
    assert head <= moved
    assert moved <= named | head
    assert len(moved) > 0.9 * len(named | head)


def test_what_a_model_has_not_cannot_be_trained(raw_data, configure, tmp_path):
    keys = {"optim.peft": "norm_fit", "model.timm_image.checkpoint_name": "vgg11", "model.timm_image.image_size": 32}
    with pytest.raises(
        TrialError, match="optim.peft is norm_fit, but this model has no such parameters; choose of lin"
    ):
        Training(configure(keys), raw_data, tmp_path)
