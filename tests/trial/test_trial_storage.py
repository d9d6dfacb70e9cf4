"""What is read how changes no pixel and no number: decoded beforehand, by blocks, resumed in the middle, by ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo.data import blocks as block_module
from hpo.data import nodecopy
from hpo.data import shards as shard_module
from hpo.data.blocks import cut_blocks
from hpo.data.decoded import decode_once
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.trial import training as training_module
from hpo.trial.augment import Augmentation
from hpo.trial.loader import Loader
from hpo.trial.middle import Middle
from hpo.trial.pixels import Delivery
from hpo.trial.training import Training

WHOLE = ("random_resized_crop", "random_horizontal_flip")


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with room; what it keeps is gone with the test."""
    monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", str(tmp_path))
    monkeypatch.setattr(nodecopy, "_leases", {})
    monkeypatch.setattr(nodecopy.atexit, "register", lambda _: None)
    return tmp_path


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(shard_module, "cut_blocks", lambda *places: cut_blocks(*places, 16 * 1024))


def open_loader(shards, size, decoded=None, blocks=False, **delivery):
    where = Delivery(size, False, False, **delivery)
    return Loader(shards, torch.arange(len(shards)), where, 16, 1, decoded=decoded, blocks=blocks)


@pytest.mark.parametrize("size", [24, 64, 100])  # at 24 most crops, at 64 some are decoded at a part of their size
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_the_same_decoded_beforehand(jpeg_data, node, size, interpolation):
    shards = open_split(jpeg_data, "train")
    decoded = decode_once(shards)
    assert decoded
    spec, loaders = Augmentation(WHOLE, 0.2, 3), []
    for kept in (None, decoded):
        loaders.append(open_loader(shards, size, kept, interpolation=interpolation))
    for batches in ([loader.training(spec.at(1)) for loader in loaders],
                    [loader.evaluation(Middle(False, 0.9, interpolation)) for loader in loaders]):  # fmt: skip
        for left, right in zip(*batches, strict=True):
            assert torch.equal(left.images, right.images)
            assert left.samples.tolist() == right.samples.tolist()
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_blocks_change_the_order_and_no_pixel(photographs, encoding, small_blocks, tmp_path):
    prepare(find_source(photographs), tmp_path / "data", Recipe(encoding, 32))
    shards = open_split(tmp_path / "data", "train")
    assert len(shards.blocks()) > 3
    spec = Augmentation(WHOLE, 0.2, 3).at(2)
    full, mixed = open_loader(shards, 32), open_loader(open_split(tmp_path / "data", "train"), 32, blocks=True)
    seen = [{}, {}]
    for place, loader in enumerate((full, mixed)):
        for batch in loader.training(spec):
            seen[place].update(zip(batch.samples.tolist(), batch.images.clone(), strict=True))
    assert list(seen[0]) != list(seen[1])
    assert seen[0].keys() == seen[1].keys()
    assert all(torch.equal(seen[0][sample], seen[1][sample]) for sample in seen[0])
    whole = [batch.samples for batch in mixed.training(spec)]
    rest = [batch.samples for batch in mixed.training(spec, first=3)]
    assert np.array_equal(np.concatenate(rest), np.concatenate(whole[3:]))
    ranks = []
    for rank in range(2):
        loader = open_loader(shards, 32, blocks=True, rank=rank, world=2)
        ranks.append([batch.samples for batch in loader.training(spec)])
        loader.close()
    for batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert sorted(np.concatenate(parts)) == sorted(batch)
    for loader in (full, mixed):
        loader.close()


def shows(training):
    """The samples of the epoch to come."""
    spec = training._augmentation.at(training.epoch + 1)
    return np.concatenate([batch.samples for batch in training._loader.training(spec)]).tolist()


def test_the_order_follows_from_where_data_lie_and_stays(raw_data, configure, small_blocks, monkeypatch, tmp_path):
    orders = {}
    for shared in (False, True):
        monkeypatch.setattr(training_module, "is_shared", lambda place, shared=shared: shared)
        for shuffle in ("auto", "full", "blocks"):
            config = configure({"env.shuffle": shuffle})
            with Training(config, raw_data, tmp_path / f"{shared} {shuffle}") as training:
                orders[shared, shuffle] = shows(training)
    full, blocks = orders[False, "full"], orders[False, "blocks"]
    assert full != blocks
    assert orders[True, "full"] == full
    assert orders[True, "blocks"] == blocks
    assert orders[False, "auto"] == full
    assert orders[True, "auto"] == blocks

    config, directory = configure({"env.shuffle": "auto"}), tmp_path / "moves"
    with Training(config, raw_data, directory) as training:  # on a node without room for a copy
        training.run_epoch()
        expected = shows(training)
    monkeypatch.setattr(training_module, "is_shared", lambda place: False)
    with Training(config, raw_data, directory) as training:  # and on with one
        assert training.epoch == 1
        assert shows(training) == expected


def test_a_deterministic_sweep_has_one_order(raw_data, configure, small_blocks, monkeypatch, tmp_path):
    monkeypatch.setattr(training_module, "is_shared", lambda place: True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with Training(configure(), raw_data, tmp_path / "auto") as training:
        found = shows(training)
    with Training(configure({"env.shuffle": "full"}), raw_data, tmp_path / "full") as training:
        assert shows(training) == found


def test_a_trial_is_the_same_decoded_beforehand(jpeg_data, configure, node, monkeypatch, tmp_path):
    config, curves = configure({"model.timm_image.image_size": 48}), []
    for room in ("0", "100"):
        monkeypatch.setenv("SLURMTUNE_DECODED_MB", room)
        with Training(config, jpeg_data, tmp_path / room) as training:
            metrics = training.run_epoch()
            curves.append([metrics[name] for name in ("train_loss", "val_loss", "val_accuracy")])
    assert len(list(node.rglob("pixels.u8"))) == 2
    assert curves[0] == curves[1]


def test_a_block_is_not_small():
    assert 4 * 2**20 <= block_module.BLOCK_BYTES <= 16 * 2**20
