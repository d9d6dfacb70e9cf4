"""Augmentation policies: the libraries' own pixels, and randomness of the image alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment
from torchvision import transforms

from hpo.data.rows import StoredSamples
from hpo.errors import TrialError
from hpo.trial import Training
from hpo.trial.policies import Policies, _create, seed_image

SIZE = 48
MEAN = (0.485, 0.456, 0.406)
HPARAMS = {"img_mean": (124, 116, 104)}
SHIFTED = {**HPARAMS, "translate_const": int(SIZE * 0.45)}
WORDS = {  # word -> the same by the library, with the settings of timm.data.transforms_imagenet_train
    "rand-m9-mstd0.5-inc1": lambda: auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", dict(SHIFTED)),
    "rand-m6-n4-tweights": lambda: auto_augment.rand_augment_transform("rand-m6-n4-tweights", dict(SHIFTED)),
    "augmix-m5-w3-d2": lambda: auto_augment.augment_and_mix_transform(
        "augmix-m5-w3-d2", {**HPARAMS, "translate_pct": 0.3}
    ),
    "original-mstd0.5": lambda: auto_augment.auto_augment_transform("original-mstd0.5", dict(SHIFTED)),
    "3a": lambda: auto_augment.auto_augment_transform("3a", dict(SHIFTED)),
    "trivial_augment": transforms.TrivialAugmentWide,
    "randaug(3,12)": lambda: transforms.RandAugment(3, 12),
    "color_jitter({'brightness': 0.5, 'hue': 0.2})": lambda: transforms.ColorJitter(brightness=0.5, hue=0.2),
    "affine(20)": lambda: transforms.RandomAffine(20),
}


def pictures(count=1, seed=0):
    """Images with coarse and fine structure, uint8 (count, SIZE, SIZE, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, SIZE // 8, SIZE // 8, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(coarse + rng.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("word", WORDS)
def test_pixels_are_the_librarys(word, monkeypatch):
    kept = ImageOps.posterize
    if word.startswith("rand-"):  # timm asks for 0 bits, which Pillow 13 refuses: what Pillow before made of it
        monkeypatch.setattr(ImageOps, "posterize", lambda i, b: kept(i, b) if b else Image.new(i.mode, i.size))
    image = Image.fromarray(pictures()[0])
    theirs, ours = WORDS[word](), _create(word, SIZE, MEAN)
    changed = 0
    for seed in range(40):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        expected = np.asarray(theirs(image))
        seed_image(seed)
        assert np.array_equal(np.asarray(ours(image)), expected), seed
        changed += not np.array_equal(expected, np.asarray(image))
    assert changed > 10


def test_nobody_elses_generators_are_touched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    Policies([*WORDS, "random_vertical_flip"], SIZE, MEAN).apply(pictures(4), np.arange(4), 0, 1)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_it_follows_from_seed_epoch_and_sample():
    policies = Policies(["trivial_augment", "random_vertical_flip"], SIZE, MEAN)

    def applied(samples, seed=0, epoch=1):
        images = pictures().repeat(len(samples), 0)
        policies.apply(images, np.array(samples), seed, epoch)
        return images

    many = applied(range(40))
    assert np.array_equal(applied([7, 3]), many[[7, 3]])
    assert len({image.tobytes() for image in many}) > 30
    assert not np.array_equal(applied(range(40), seed=1), many)
    assert not np.array_equal(applied(range(40), epoch=2), many)


def test_upside_down_is_half_of_them():
    images = pictures().repeat(60, 0)
    Policies(["random_vertical_flip"], SIZE, MEAN).apply(images, np.arange(60), 0, 1)
    flipped = [np.array_equal(image, pictures()[0][::-1]) for image in images]
    assert 15 < sum(flipped) < 45
    assert all(flip or np.array_equal(image, pictures()[0]) for flip, image in zip(flipped, images, strict=True))


@pytest.mark.parametrize("stored", ["raw_data", "jpeg_data"])
def test_the_loader_applies_them_in_training_only(stored, request, configure, tmp_path):
    keys = {"model.timm_image.train_transforms": ["center_crop", "rand-m9-n3"], "model.timm_image.image_size": 32}
    batches = {}
    for workers in (0, 3):
        config = configure({**keys, "env.num_workers": workers})
        with Training(config, request.getfixturevalue(stored), tmp_path / str(workers)) as training:
            batches[workers] = next(iter(training._loader.training(training._augmentation.at(2))))
            policies, without = training._augmentation.policies, replace(training._augmentation.at(2), policies=None)
            plain = next(iter(training._loader.training(without))).images.numpy().copy()
            evaluated = next(iter(training._validation.evaluation(training._middle)))
            seen = np.empty_like(evaluated.images.numpy())
            for number in range(len(seen)):
                training._middle.render(StoredSamples(training._validation._shards, None).load(number), seen[number])
            assert np.array_equal(evaluated.images.numpy(), seen)
    assert torch.equal(batches[0].images, batches[3].images)
    assert not np.array_equal(plain, batches[0].images.numpy())
    policies.apply(plain, batches[0].samples, 0, 2)
    assert np.array_equal(plain, batches[0].images.numpy())


def test_what_the_library_refuses_is_told(raw_data, configure, tmp_path):
    keys = {"model.timm_image.train_transforms": ["affine({'degree': 5})"]}
    with pytest.raises(TrialError, match=r"train_transforms: \"affine.* is not possible \(.*degree"):
        Training(configure(keys), raw_data, tmp_path)
