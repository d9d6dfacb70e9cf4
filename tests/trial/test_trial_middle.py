"""hpo.trial.middle: evaluation sees what timm's own transform shows of a photograph."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hpo.data.decode import decode_rgb
from hpo.data.read import open_split
from hpo.data.rows import StoredSamples
from hpo.trial.loader import Loader
from hpo.trial.middle import Middle
from hpo.trial.pixels import Delivery
from hpo.trialkeys import ModelConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def encoded():
    """Encoded photographs, upright, wide, square and tiny ones."""
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        found = [archive.read(f"train/{name}/{i:03d}.jpg") for name in ("hat", "pants", "shoes") for i in range(1, 5)]
    for size in ((97, 401), (533, 400), (400, 533), (31, 30), (64, 64), (200, 200)):
        content = io.BytesIO()
        Image.open(io.BytesIO(found[0])).resize(size).save(content, "JPEG", quality=90)
        found.append(content.getvalue())
    return found


@pytest.mark.parametrize("squeezes", [False, True])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(1.0, "bilinear"), (0.875, "bilinear"), (0.9, "bicubic")])
def test_it_is_timms_own_transform(encoded, squeezes, crop_pct, interpolation):
    ours = Middle(squeezes, crop_pct, interpolation)
    theirs = timm.data.create_transform(
        (3, 64, 64), interpolation=interpolation, crop_pct=crop_pct, crop_mode="squash" if squeezes else "center",
        mean=(0, 0, 0), std=(1, 1, 1), is_training=False,
    )  # fmt: skip
    for content in encoded:
        seen = np.empty((64, 64, 3), np.uint8)
        ours.render(decode_rgb(content), seen)
        shown = theirs(Image.open(io.BytesIO(content)).convert("RGB")).mul(255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(seen, shown.astype(np.uint8))


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = np.empty_like(image)
    Middle(False, 1.0).render(image, seen)
    assert (seen == image).all()


def test_the_first_transform_that_makes_a_square_without_chance_decides():
    def squeezes(*transforms):
        return Middle.of(ModelConfig(checkpoint_name="x", train_transforms=transforms), "bilinear").squeezes

    assert squeezes("resize", "random_crop")
    assert not squeezes("random_resized_crop", "random_horizontal_flip")
    assert not squeezes("center_crop", "resize")
    assert squeezes("random_resized_crop", "resize")


@pytest.mark.parametrize("stored", ["raw_data", "jpeg_data"])
@pytest.mark.parametrize("on_device", [False, True])
def test_the_loader_shows_it_of_every_sample(stored, on_device, request):
    shards, middle = open_split(request.getfixturevalue(stored), "validation"), Middle(False, 0.9)
    loader = Loader(shards, torch.arange(len(shards)), Delivery(24, on_device, False), 12, 2)
    batches = list(loader.evaluation(middle))
    loader.close()
    assert all(batch.crops is None for batch in batches)
    stored_samples = StoredSamples(shards, None)
    for number, seen in enumerate(torch.cat([batch.images for batch in batches]).numpy()):
        expected = np.empty((24, 24, 3), np.uint8)
        middle.render(stored_samples.load(number), expected)
        assert np.array_equal(seen, expected)
