"""Trials on somebody else's HDF5 file, read where it lies, are those on shards of the same pixels, to the bit."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpo.data import linked as linked_module
from hpo.data.link import link_file
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.split import Shares
from hpo.data.write import prepare
from hpo.errors import DataError
from hpo.trial.training import Training

CURVES = ("train_loss", "val_loss", "val_accuracy")


def write_pixels(path, images, labels, **storage):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **storage)
        file["labels"] = labels
    return path


def run(config, data, directory):
    with Training(config, data, directory) as training:
        rows = [training.run_epoch() for _ in range(2)]
    return [[row[name] for name in CURVES] for row in rows]


@pytest.mark.parametrize("storage", [{}, {"chunks": (9, 32, 32, 3), "compression": "gzip"}])
def test_pixels_train_as_raw_shards_of_them(raw_data, configure, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(linked_module, "_warned", set())
    train = open_split(raw_data, "train")
    images = np.stack([train.pixels(i) for i in range(len(train))])
    theirs = write_pixels(tmp_path / "theirs.h5", images, train.labels, **storage)
    link_file(find_source(theirs), tmp_path / "linked", Shares(0.2, 0), 0)
    prepare(find_source(theirs), tmp_path / "shards", Recipe("raw", 32, shares=Shares(0.2, 0)))
    config = configure({"env.batch_size": 16, "env.num_workers": 2})
    linked = run(config, tmp_path / "linked", tmp_path / "a")
    assert linked == run(config, tmp_path / "shards", tmp_path / "b")
    assert linked[1][0] != linked[0][0]
    said = (tmp_path / "a" / "log.txt").read_text()
    assert ("is read through libhdf5 (9 images a chunk, compressed by gzip)" in said) == bool(storage)


@pytest.fixture
def encoded(jpeg_data, tmp_path):
    """The same photographs as JPEG files in one variable-length dataset."""
    train, path = open_split(jpeg_data, "train"), tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("images", (len(train),), h5py.vlen_dtype(np.uint8))
        for i in range(len(train)):
            dataset[i] = np.frombuffer(train.read_bytes(i), np.uint8)
        file["labels"] = train.labels
    return path


def test_encoded_images_train_as_shards_of_them(encoded, configure, tmp_path):
    link_file(find_source(encoded), tmp_path / "linked", Shares(0.2, 0), 0)
    prepare(find_source(encoded), tmp_path / "shards", Recipe(shares=Shares(0.2, 0)))
    config = configure({"env.batch_size": 16, "model.timm_image.image_size": 64})  # no crop is twice as large
    assert run(config, tmp_path / "linked", tmp_path / "a") == run(config, tmp_path / "shards", tmp_path / "b")


def test_a_file_that_changes_in_mid_epoch_ends_the_trial(encoded, configure, tmp_path):
    link_file(find_source(encoded), tmp_path / "linked", Shares(0.2, 0), 0)
    config = configure({"env.batch_size": 8, "env.num_workers": 0, "model.timm_image.image_size": 64})
    updates = []

    def progress():
        updates.append(None)
        if len(updates) == 3:
            with encoded.open("ab") as file:
                file.write(b"more")

    changed = pytest.raises(DataError, match=r"theirs.h5 changed since .* linked it")
    with Training(config, tmp_path / "linked", tmp_path / "out", progress) as training, changed:
        training.run_epoch()
    assert len(updates) == 3
