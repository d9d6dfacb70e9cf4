"""Batches on their way to the device: the same ones, in the same order, used when they are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo.data.read import open_split
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.carry import carried
from hpo.trial.loader import Batch, Loader
from hpo.trial.pixels import Delivery
from hpo.trial.render import render_batch
from hpo.trial.rows import Rows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@pytest.fixture
def loader(raw_data):
    shards = open_split(raw_data, "train")
    on_gpu = torch.cuda.is_available()
    loader = Loader(shards, torch.arange(len(shards)), Delivery(32, False, on_gpu), 16, 1)
    yield loader
    loader.close()


SPEC = Augmentation(("random_crop",), 0.5, 0, 1)


def test_on_the_host_batches_are_left_alone(loader):
    batches = list(loader.training(SPEC))
    found = list(carried(iter(batches), torch.device("cpu")))
    assert len(found) == 5
    assert all(batch is same for batch, same in zip(batches, found, strict=True))


def test_an_abandoned_epoch_ends_the_readers_work(loader):
    epoch = carried(loader.training(SPEC), torch.device("cpu"))
    first = next(epoch)
    epoch.close()
    assert len(first) == 16
    assert len(list(carried(loader.training(SPEC), torch.device("cpu")))) == 5


def test_all_of_a_batch_goes_along():
    rows = Rows(torch.ones(4, 1, dtype=torch.bool), torch.rand(4, 2), torch.ones(4, 3, dtype=torch.long))
    batch = Batch(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4), np.arange(4), rows=rows)
    there = batch.to(torch.device("meta"))
    assert [tensor.device.type for tensor in there.tensors] == ["meta"] * 4
    assert [tensor.shape for tensor in there.tensors] == [tensor.shape for tensor in batch.tensors]
    assert there.rows.present.device.type == "cpu"  # it is asked on the host
    assert there.samples is batch.samples
    assert there.part(1, 3).images.shape == (2, 8, 8, 3)


@needs_gpu
def test_on_a_gpu_the_pixels_arrive(loader):
    expected = [(batch.images.clone(), batch.targets.clone()) for batch in loader.training(SPEC)]
    device, busy = torch.device("cuda"), torch.rand(2000, 2000, device="cuda")
    for (images, targets), batch in zip(expected, carried(loader.training(SPEC), device), strict=True):
        for _ in range(20):
            busy = busy @ busy / 1000  # the host is ahead
        assert batch.images.device.type == "cuda"
        assert torch.equal(batch.images.cpu(), images)
        assert torch.equal(batch.targets.cpu(), targets)


@needs_gpu
def test_on_a_gpu_epochs_use_one_stream_and_hold_memory_once(loader):
    device = torch.device("cuda")
    held = []
    for _ in range(40):  # torch has 32 streams to give
        for batch in carried(loader.training(SPEC), device):
            batch.images.sum()
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[1]


@needs_gpu
def test_on_a_gpu_boxes_come_without_waiting_for_its_work():
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8, device="cuda")
    crops = Crops(np.tile([0, 0, 8, 8], (4, 1)), np.zeros(4, bool))
    render_batch(images, crops, 8)  # whatever is set up at first
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert render_batch(images, crops, 8).shape == (4, 3, 8, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
