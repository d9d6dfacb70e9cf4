"""Crops as numbers, their pixels on host and device, and that nothing depends on who computes them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hpo.data.decode import decode_rgb
from hpo.data.read import open_split
from hpo.errors import DataError
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.buffers import Buffers
from hpo.trial.loader import Loader
from hpo.trial.middle import Middle
from hpo.trial.pixels import Delivery
from hpo.trial.randomness import derive, permutation, uniforms
from hpo.trial.render import render_batch, render_image

IDS = np.arange(4000, dtype=np.uint64)
HEIGHTS, WIDTHS = np.full(4000, 120), np.full(4000, 90)


def crops(*transforms, epoch=1, scale=0.35, seed=0, heights=HEIGHTS, widths=WIDTHS):
    return Augmentation(transforms, scale, seed, epoch).crops(IDS[: len(heights)], heights, widths)


def test_random_resized_crop_keeps_to_its_bounds():
    boxes = crops("random_resized_crop").boxes
    top, left, height, width = boxes.T
    area, ratio = height * width / (120 * 90), width / height
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= 120
    assert (left + width).max() <= 90
    assert 0.33 < area.min() < 0.40
    assert 0.94 < area.max() <= 1
    assert 0.72 < ratio.min() < 0.78
    assert 1.2 < ratio.max() < 1.37
    assert abs(area.mean() - 0.675) < 0.02


def test_random_resized_crop_of_a_strip_fits_it():
    boxes = crops("random_resized_crop", heights=np.full(500, 10), widths=np.full(500, 200)).boxes
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 10
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 200
    assert boxes[:, 2:].min() >= 1


def test_center_crop_resize_and_neither():
    square = [15, 0, 90, 90]
    assert crops("center_crop").boxes[0].tolist() == square
    assert crops().boxes[0].tolist() == square
    assert crops("random_horizontal_flip").boxes[0].tolist() == square
    assert crops("resize").boxes[0].tolist() == [0, 0, 120, 90]


def test_random_crop_shifts_by_at_most_an_eighth():
    shifts = crops("random_crop", heights=np.full(2000, 32), widths=np.full(2000, 32)).boxes
    assert set(shifts[:, 0]) == set(shifts[:, 1]) == set(range(-4, 5))
    assert (shifts[:, 2:] == 32).all()


def test_flip_is_every_second_and_order_matters():
    assert abs(crops("random_horizontal_flip").flips.mean() - 0.5) < 0.03
    assert not crops("center_crop").flips.any()
    first = crops("center_crop", "random_resized_crop").boxes
    second = crops("random_resized_crop", "center_crop").boxes
    assert (first[:, 0] >= 15).all()
    assert np.abs(second[:, 2] - second[:, 3]).max() <= 1  # square, to a pixel
    assert np.abs(first[:, 2] - first[:, 3]).max() > 10


def test_crops_depend_on_seed_epoch_and_sample_alone():
    names = ("random_resized_crop", "random_horizontal_flip")
    whole = crops(*names)
    some = Augmentation(names, 0.35, 0, 1).crops(IDS[[5, 3]], HEIGHTS[:2], WIDTHS[:2])
    assert np.array_equal(some.boxes, whole.boxes[[5, 3]])
    assert np.array_equal(some.flips, whole.flips[[5, 3]])
    assert not np.array_equal(whole.boxes, crops(*names, epoch=2).boxes)
    assert not np.array_equal(whole.boxes, crops(*names, seed=1).boxes)


def test_random_numbers_are_even_and_independent():
    numbers = uniforms(3, 5, IDS, 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.06
    assert np.abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.06  # of neighbouring ids
    assert derive(1, 2) != derive(2, 1)
    assert sorted(permutation(100, 0, 1)) == list(range(100))
    assert not np.array_equal(permutation(100, 0, 1), permutation(100, 0, 2))


def batch_of(data, count=24):
    shards = open_split(data, "train")
    images = np.empty((count, *shards.image_shape), np.uint8)
    shards.gather(np.arange(count), images)
    return images


@pytest.mark.parametrize("size", [16, 24, 32, 48])
@pytest.mark.parametrize(
    "transforms", [("random_resized_crop", "random_horizontal_flip"), ("random_crop",), ("resize",)]
)
def test_device_renders_what_the_host_renders(raw_data, size, transforms):
    images = batch_of(raw_data)
    planned = Augmentation(transforms, 0.35, 0, 1).crops(IDS[:24], np.full(24, 32), np.full(24, 32))
    host = np.empty((24, size, size, 3), np.uint8)
    for image, box, flip, out in zip(images, planned.boxes.tolist(), planned.flips, host, strict=True):
        render_image(image, box, flip, out)
    device = render_batch(torch.from_numpy(images), planned, size).permute(0, 2, 3, 1).numpy()
    assert device.shape == host.shape
    difference = np.abs(device - host).max((1, 2, 3))  # of 255
    filtered = np.maximum(planned.boxes[:, 2], planned.boxes[:, 3]) / size > 1.25  # else the host's filter is narrower
    assert (difference[filtered] < 3).all()
    assert difference.mean() < 8


@pytest.mark.parametrize("size", [24, 48, 70, 96, 200])
def test_host_renders_what_pillow_renders(size):
    """Antialiased where it shrinks much, bilinear where it enlarges: the pixels of timm's and torchvision's resize."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((90, 120), Image.Resampling.BICUBIC))
    for box in ([0, 0, 120, 90], [10, 20, 77, 61], [3, 0, 97, 90]):
        top, left, height, width = box
        corners = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(image).crop(corners).resize((size, size), Image.Resampling.BILINEAR))
        for flip in (False, True):
            found = np.zeros((size, size, 3), np.uint8)
            render_image(image, box, flip, found)
            difference = np.abs(found.astype(int) - (expected[:, ::-1] if flip else expected))
            assert difference.mean() < 0.8  # of 255


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("writeable", [True, False])
def test_shrinking_is_torchs_antialiased_interpolation(name, writeable):
    """To the bit: render_image calls its kernel without torch.nn.functional around it."""
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    image.flags.writeable = writeable
    pixels = torch.from_numpy(image[5:85, 3:63].copy()).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(pixels, size=(32, 32), mode=name, antialias=True)
    found = np.zeros((32, 32, 3), np.uint8)
    render_image(image, [5, 3, 80, 60], False, found, name)
    assert (found == expected[0].permute(1, 2, 0).numpy()).all()


def test_whole_images_stay_as_they_are(raw_data):
    images = batch_of(raw_data)
    planned = Crops(np.tile([0, 0, 32, 32], (24, 1)), np.zeros(24, bool))
    assert np.array_equal(render_batch(torch.from_numpy(images), planned, 32).permute(0, 2, 3, 1).numpy(), images)
    planned.flips[:] = True
    mirrored = render_batch(torch.from_numpy(images), planned, 32).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(mirrored, images[:, :, ::-1])


def load(data, workers, on_device=False, split="train", batch_size=32):
    shards = open_split(data, split)
    delivery = Delivery(24, on_device=on_device, pinned=False)
    loader = Loader(shards, torch.arange(len(shards)), delivery, batch_size, workers)
    augmentation = Augmentation(("random_resized_crop", "random_horizontal_flip"), 0.35, 0)
    try:
        if split == "train":
            return [list(loader.training(augmentation.at(epoch))) for epoch in (1, 2)]
        return list(loader.evaluation(Middle(False, 1.0)))
    finally:
        loader.close()


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_batches_do_not_depend_on_threads(raw_data, jpeg_data, kind):
    data = raw_data if kind == "raw" else jpeg_data
    alone, many = load(data, 0), load(data, 3)
    assert len(alone[0]) == 80 // 32
    for first, second in zip(alone[0] + alone[1], many[0] + many[1], strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.targets, second.targets)
    epochs = [torch.cat([batch.targets for batch in epoch]).tolist() for epoch in alone]
    assert len(set(epochs[0])) == 64
    assert epochs[0] != epochs[1]


def test_evaluation_is_every_sample_in_order(raw_data):
    batches = load(raw_data, 2, split="validation", batch_size=12)
    assert [len(batch) for batch in batches] == [12, 12, 8]
    assert torch.cat([batch.targets for batch in batches]).tolist() == list(range(32))


def test_set_smaller_than_a_batch_is_one_batch(raw_data):
    assert [len(batch) for batch in load(raw_data, 1, batch_size=500)[0]] == [80]


def test_raw_for_the_device_comes_with_its_crops(raw_data):
    batch = load(raw_data, 1, on_device=True)[0][0]
    assert batch.images.shape == (32, 32, 32, 3)
    assert batch.crops.boxes.shape == (32, 4)
    part = batch.part(8, 12)
    assert np.array_equal(part.crops.boxes, batch.crops.boxes[8:12])


def test_a_batch_can_be_the_first(jpeg_data):
    whole = load(jpeg_data, 2, batch_size=16)[1]
    shards = open_split(jpeg_data, "train")
    loader = Loader(shards, torch.arange(80), Delivery(24, False, False), 16, 2)
    augmentation = Augmentation(("random_resized_crop", "random_horizontal_flip"), 0.35, 0, 2)
    rest = list(loader.training(augmentation, first=3))
    loader.close()
    assert len(rest) == 2
    for first, second in zip(whole[3:], rest, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.targets, second.targets)


@pytest.mark.parametrize("training", [True, False])
def test_ranks_share_each_batch(jpeg_data, training):
    augmentation, parts = Augmentation(("random_resized_crop",), 0.35, 0), []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        shards = open_split(jpeg_data, "train")
        loader = Loader(shards, torch.arange(80), Delivery(24, False, False, rank, world), 32, 1)
        parts.append(list(loader.training(augmentation.at(1)) if training else loader.evaluation(Middle(False, 1.0))))
        loader.close()
    for whole, even, odd in zip(*parts, strict=True):
        assert torch.equal(whole.images[0::2], even.images)
        assert torch.equal(whole.images[1::2], odd.images)
        assert torch.equal(whole.targets[1::2], odd.targets)


def test_a_damaged_image_in_mid_epoch_is_named(jpeg_data, tmp_path):
    data = shutil.copytree(jpeg_data, tmp_path / "copy")
    shards = open_split(data, "train")
    (path,) = data.glob("train-*.h5")
    with path.open("r+b") as file:
        file.seek(int(shards._begin[41]) + 300)
        file.write(b"torn")
    loader = Loader(shards, torch.arange(80), Delivery(24, False, False), 16, 2)
    with pytest.raises(DataError, match=f"shard {path} sample 41 is damaged"):
        list(loader.training(Augmentation((), 0.35, 0, 1)))
    loader.close()


def test_what_cannot_be_decoded_is_named(jpeg_data, monkeypatch):
    shards = open_split(jpeg_data, "train")
    loader = Loader(shards, torch.arange(len(shards)), Delivery(24, False, False), 32, 2)
    read = shards.read_bytes
    monkeypatch.setattr(shards, "read_many", lambda some: [b"torn" if i == 7 else read(i) for i in some.tolist()])
    with pytest.raises(DataError, match="sample 7 cannot be decoded"):
        list(loader.evaluation(Middle(False, 1.0)))
    monkeypatch.setattr(shards, "read_many", lambda some: [read(0 if i == 7 else i) for i in some.tolist()])
    shards.heights[7] -= 40
    with pytest.raises(DataError, match="sample 7 cannot be decoded: it is .* pixels, not"):
        list(loader.evaluation(Middle(False, 1.0)))
    loader.close()


def test_decoding_at_half_the_size_shows_the_same(jpeg_data):
    """Photographs of 96 x 128 pixels for a model of 24: a quarter in the DCT domain, or whole and resized."""
    shards, boxes = open_split(jpeg_data, "train"), Augmentation(("random_resized_crop",), 0.7, 0, 1)
    loader = Loader(shards, torch.arange(80), Delivery(24, False, False), 80, 0)
    (batch,) = list(loader.training(boxes))
    loader.close()
    order = batch.targets.numpy()
    crops = boxes.crops(shards.sample_ids[order], shards.heights[order], shards.widths[order])
    whole = np.zeros((80, 24, 24, 3), np.uint8)
    for i in range(80):
        render_image(decode_rgb(shards.read_bytes(int(order[i]))), crops.boxes[i].tolist(), False, whole[i])
    difference = np.abs(batch.images.numpy().astype(int) - whole)
    assert 0 < difference.mean() < 5


def test_memory_comes_back_when_nobody_holds_it():
    buffers = Buffers(pinned=False)
    first = buffers.take(4, 5, 5, 3)
    place, part = first.data_ptr(), first[1:3].permute(0, 3, 1, 2)
    del first
    assert buffers.take(4, 5, 5, 3).data_ptr() != place  # a part of it is in use
    del part
    again = [buffers.take(10, 5, 3, 2), buffers.take(4, 75)]
    assert place in [tensor.data_ptr() for tensor in again]


def test_threads_leave_torchs_own_as_they_are(jpeg_data):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = Loader(open_split(jpeg_data, "train"), torch.arange(80), Delivery(24, False, False), 32, 2)
        assert torch.get_num_threads() == 3
        assert {future.result() for future in [loader._pool.submit(torch.get_num_threads) for _ in range(4)]} == {1}
        loader.close()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("side", [20, 96])
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_interpolation_is_pillows(side, name):
    """On the host and on the device."""
    rng = np.random.default_rng(0)
    image = np.clip(cv2.GaussianBlur(rng.random((90, 70, 3)) * 255, (0, 0), 2), 0, 255).astype(np.uint8)
    box = (0, 0, 90, 70)
    expected = np.asarray(Image.fromarray(image).resize((side, side), getattr(Image.Resampling, name.upper())), float)
    out = np.empty((side, side, 3), np.uint8)
    render_image(image, box, False, out, name)
    assert np.abs(out - expected).max() <= 2
    crops = Crops(np.array([box]), np.array([False]))
    device = render_batch(torch.from_numpy(image)[None], crops, side, name)[0].permute(1, 2, 0).numpy()
    assert np.abs(device - expected)[3:-3, 3:-3].max() <= 2
