"""Random erasing: rectangles as asked, and the same for any pieces of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo.trial import Training
from hpo.trial.compute import Step
from hpo.trial.erasing import Erasing
from hpo.trialkeys import ErasingConfig

SIZE, COUNT = 40, 400


def erased(epoch=1, seed=0, samples=None, **keys):
    """Ones (COUNT, 3, SIZE, SIZE) after the erasing."""
    samples = np.arange(COUNT) if samples is None else samples
    images = torch.ones(len(samples), 3, SIZE, SIZE)
    Erasing(ErasingConfig(**{"prob": 1.0, **keys}), seed, epoch).apply(images, samples)
    return images


def shares(images):
    """The share of each image that is erased."""
    return (images != 1).any(1).float().mean((1, 2))


def test_areas_and_probability_are_as_asked():
    always = shares(erased(mode="const"))
    assert ((always > 0.015) & (always < 0.35)).all()
    assert always.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert 140 < (shares(erased(prob=0.5)) > 0).sum() < 260
    assert not shares(erased(prob=0.0)).any()
    assert shares(erased(max_area=0.05)).max() < 0.06


def test_each_is_one_rectangle():
    for mask in (erased(mode="const") != 1).any(1)[:50]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_fillings():
    values = {mode: erased(mode=mode) for mode in ("const", "rand", "pixel")}
    masks = {mode: (images != 1) for mode, images in values.items()}
    assert torch.equal(masks["const"].any(1), masks["pixel"].any(1))  # the same places
    assert not values["const"][masks["const"]].any()
    noise = values["pixel"][masks["pixel"]]
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    one = values["rand"][0][:, masks["rand"][0].any(0)]
    assert (one == one[:, :1]).all()
    assert len(set(one[:, 0].tolist())) == 3


def test_several_are_smaller_each():
    several = shares(erased(count=4, mode="const"))
    assert several.max() < 0.35
    assert several.mean() < shares(erased(mode="const")).mean()


def test_it_follows_from_seed_epoch_and_sample():
    whole = erased(prob=0.5)
    assert torch.equal(erased(prob=0.5, samples=np.array([9, 4, 200])), whole[[9, 4, 200]])
    assert not torch.equal(erased(prob=0.5, epoch=2), whole)
    assert not torch.equal(erased(prob=0.5, seed=1), whole)


def test_pieces_of_a_batch_are_erased_like_the_whole_and_evaluation_is_not(raw_data, configure, tmp_path):
    keys = {"data.random_erasing.prob": 0.7, "model.timm_image.checkpoint_name": "test_vit", "optim.max_epochs": 1}
    losses = []
    for micro in (32, 5):
        with Training(
            configure({**keys, "env.per_gpu_batch_size": micro}), raw_data, tmp_path / str(micro)
        ) as training:
            compute, batch = training._compute, next(iter(training._loader.training(training._augmentation.at(1))))
            erasing = Erasing(training.config.erasing, 0, 1)
            (plain,), (changed,) = compute._feed(batch)[0], compute._feed(batch, erasing)[0]
            touched = (plain != changed).flatten(1).any(1)
            assert 12 < touched.sum() < 32
            assert compute._loss(batch, batch, Step(0.0, erasing=erasing)) != compute._loss(batch, batch, Step(0.0))
            assert torch.equal(compute.measure(batch), compute.measure(batch))
            losses.append(training.run_epoch()["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
