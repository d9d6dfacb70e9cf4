"""Somebody else's HDF5 file, read where it lies: the same pixels however it is stored, forked, threaded, copied."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from hpo.config import load_sweep
from hpo.data import linked, nodecopy
from hpo.data.check import check
from hpo.data.libhdf5 import LOCK
from hpo.data.link import link_file
from hpo.data.linked import LinkedSet
from hpo.data.plan import Recipe
from hpo.data.read import describe, open_split
from hpo.data.sources import SourceOptions, find_source
from hpo.data.split import Shares
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError
from launch.prepare import main as run_prepare

COUNT, SIDE = 60, 24


@pytest.fixture(autouse=True)
def _not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked, "_warned", set())


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE + 2, 3), np.uint8)


def write(path: Path, images: Any, **storage: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **storage)
        file["labels"] = np.arange(COUNT) % 3
    return path


def link(path: Path, out: Path) -> Path:
    link_file(find_source(path), out, Shares(0.2, 0.1), 0)
    return out


STORED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]] = {
    "contiguous": (lambda images: images, {}),
    "chunked": (lambda images: images, {"chunks": (7, SIDE, SIDE + 2, 3), "compression": "gzip", "shuffle": True}),
    "one a chunk": (lambda images: images, {"chunks": (1, SIDE, SIDE + 2, 3), "compression": "lzf"}),
    "channels first": (lambda images: images.transpose(0, 3, 1, 2), {}),
}


@pytest.mark.parametrize("stored", STORED)
def test_pixels_are_those_of_the_file(
    pixels: np.ndarray, stored: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrange, storage = STORED[stored]
    data = link(write(tmp_path / "theirs.h5", arrange(pixels), **storage), tmp_path / "data")
    seen = set()
    for split in ("train", "validation", "test"):
        images = open_split(data, split)
        assert isinstance(images, LinkedSet)
        rows = images.sample_ids.astype(int)
        seen.update(rows.tolist())
        assert images.labels.tolist() == (rows % 3).tolist()
        order = np.random.default_rng(1).permutation(len(images))
        out = np.zeros((len(images), SIDE, SIDE + 2, 3), np.uint8)
        images.gather(order, out)
        assert (out == pixels[rows][order]).all()
        assert all((images.pixels(i) == pixels[row]).all() for i, row in enumerate(rows))
        assert (images.heights == SIDE).all()
        assert (images.widths == SIDE + 2).all()
    assert seen == set(range(COUNT))
    slow = [record.message for record in caplog.records if "is read through libhdf5" in record.message]
    assert len(slow) == (stored != "contiguous")
    assert all("prepare.py" in message for message in slow)


def test_encoded_images_are_decoded_as_prepare_would(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files, expected = [], []
    for number in range(COUNT):
        picture = Image.fromarray(random.integers(0, 256, (20 + number % 3, 31, 3), np.uint8))
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        picture.save(stream, **([{"format": "PNG"}, {"format": "JPEG", "exif": exif}][number % 2]))
        files.append(np.frombuffer(stream.getvalue(), np.uint8))
        upright = picture if number % 2 == 0 else Image.open(stream).transpose(Image.Transpose.ROTATE_270)
        expected.append(np.asarray(upright.convert("RGB")))
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("images", (COUNT,), h5py.vlen_dtype(np.uint8))
        for number, content in enumerate(files):
            dataset[number] = content
        file["labels"] = np.arange(COUNT) % 3
    images = open_split(link(path, tmp_path / "data"), "train")
    assert images.image_shape is None
    assert not images.sized
    for i, row in enumerate(images.sample_ids.astype(int).tolist()):
        assert (images.pixels(i) == expected[row]).all()
        assert images.content(i) == files[row].tobytes()


def total(images: LinkedSet) -> int:
    return sum(int(images.pixels(i).sum()) for i in range(len(images)))


def test_forks_and_threads_read_the_same(pixels: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.h5", pixels, chunks=(7, SIDE, SIDE + 2, 3), compression="gzip")
    images = open_split(link(path, tmp_path / "data"), "train")
    assert isinstance(images, LinkedSet)
    expected = total(images)  # open in the parent from here on
    assert expected == int(pixels[images.sample_ids.astype(int)].sum())
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: total(images), range(4))) == [expected] * 4
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            total(images)

    reader = threading.Thread(target=read)  # a fork in the middle of its reading
    reader.start()
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(total, [images] * 4) == [expected] * 4
        child = os.fork()
        if not child:
            os._exit(0 if total(images) == expected else 1)  # with what it inherits
        assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        reader.join(60)
    assert LOCK.acquire(timeout=60)  # nobody holds it for good
    LOCK.release()
    assert total(pickle.loads(pickle.dumps(images))) == expected


@pytest.mark.parametrize("storage", [{}, {"chunks": (7, SIDE, SIDE + 2, 3)}])
@pytest.mark.parametrize("change", ["longer", "touched", "gone", "replaced"])
def test_a_file_that_changes_is_refused(
    pixels: np.ndarray, storage: dict[str, Any], change: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "theirs.h5", pixels, **storage)
    data = link(path, tmp_path / "data")
    images, out = open_split(data, "test"), np.zeros((2, SIDE, SIDE + 2, 3), np.uint8)
    images.gather(np.arange(2), out)
    if change == "longer":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "gone":
        path.unlink()
    else:
        write(tmp_path / "other.h5", pixels[::-1], **storage).replace(path)
        os.utime(path, ns=(1, 1))
    uses: list[Callable[[], Any]] = [
        lambda: images.gather(np.arange(2), out),
        lambda: images.pixels(0),
        lambda: describe(data),  # what a resumed sweep asks
        lambda: open_split(data, "train"),
    ]
    for use in uses:
        with pytest.raises(DataError, match="changed since|cannot be read") as caught:
            use()
        assert str(path) in str(caught.value)


def test_damage_is_named_by_row(pixels: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.h5", pixels, chunks=(1, SIDE, SIDE + 2, 3), fletcher32=True)
    before = path.stat()
    with h5py.File(path, "r", locking=False) as file:
        chunk = file["images"].id.get_chunk_info_by_coord((5, 0, 0, 0))
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset + 9)
        stream.write(b"\0\1\2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    data = link(path, tmp_path / "data")
    assert [damage.sample for damage in check(data, 1)] == [5]
    assert "row 5 cannot be read" in str(check(data, 1)[0])
    holder = next(s for s in ("train", "validation", "test") if 5 in open_split(data, s).sample_ids)
    images = open_split(data, holder)
    with pytest.raises(DataError, match=r"dataset 'images' row 5 cannot be read"):
        images.pixels(images.sample_ids.tolist().index(5))


def test_a_node_has_its_copy(pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "theirs.h5", pixels, chunks=(7, SIDE, SIDE + 2, 3))
    data, place = link(path, tmp_path / "data"), tmp_path / "node disk"
    place.mkdir()
    monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", str(place))
    monkeypatch.setenv("SLURMTUNE_STAGE", "always")
    monkeypatch.setattr(nodecopy, "_leases", {})
    monkeypatch.setattr(nodecopy.atexit, "register", lambda _: None)
    copy = nodecopy.local_copy(data)
    assert copy.is_relative_to(place)
    images = open_split(copy, "train")
    path.rename(tmp_path / "not read any more.h5")
    assert (images.pixels(3) == pixels[int(images.sample_ids[3])]).all()


def test_the_command_links_and_checks(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], class_folder: Path
) -> None:
    path = write(tmp_path / "theirs.h5", pixels)
    command = [str(path), "--out", str(tmp_path / "data"), "--link", "--json"]
    assert run_prepare(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["encoding"], told["num_shards"], told["num_bytes"]) == ("link", 0, path.stat().st_size)
    assert told["splits"] == {"train": 48, "validation": 6, "test": 6}
    assert sum(f.stat().st_size for f in (tmp_path / "data").iterdir()) < 5000
    assert run_prepare(command) == 0  # again: it is there
    assert run_prepare(["--check", str(tmp_path / "data")]) == 0
    assert run_prepare([*command, "--seed", "5"]) == 2
    assert "holds other data or splits" in capsys.readouterr().err
    for wrong, said in (
        ([str(path), "--out", str(tmp_path / "b"), "--link", "--size", "8"], "takes no --size"),
        ([str(class_folder), "--out", str(tmp_path / "b"), "--link"], "--link is for an HDF5 file"),
    ):
        assert run_prepare(wrong) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_sweep_that_names_the_file_is_told_how(pixels: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "theirs.h5", pixels)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("data: theirs.h5\nhyperparameters: {optim.lr: {loguniform: [1e-4, 1e-2]}}\n")
    with pytest.raises(UsageError, match=r"prepare.py .*theirs.h5 --out DATA --link` makes it known"):
        load_sweep(sweep)
    link(tmp_path / "theirs.h5", tmp_path / "data")
    sweep.write_text(sweep.read_text().replace("theirs.h5", "data"))
    assert load_sweep(sweep).fingerprint == describe(tmp_path / "data").fingerprint


def test_a_damaged_index_and_an_older_program(pixels: np.ndarray, tmp_path: Path) -> None:
    data = link(write(tmp_path / "theirs.h5", pixels), tmp_path / "data")
    assert json.loads((data / "manifest.json").read_text())["format_version"] == 3
    index = data / "index.npz"
    content = bytearray(index.read_bytes())
    content[200] ^= 1
    index.write_bytes(content)
    with pytest.raises(DataError, match="index.npz is damaged"):
        open_split(data, "train")


def test_converted_and_linked_show_the_same(pixels: np.ndarray, tmp_path: Path) -> None:
    square = np.ascontiguousarray(pixels[:, :, :SIDE])
    path = write(tmp_path / "theirs.h5", square, chunks=(7, SIDE, SIDE, 3))
    data = link(path, tmp_path / "linked")
    prepare(find_source(path), tmp_path / "raw", Recipe("raw", SIDE, shares=Shares(0.2, 0.1)))
    ours, theirs = open_split(tmp_path / "raw", "train"), open_split(data, "train")
    assert (ours.sample_ids == theirs.sample_ids).all()
    assert all((ours.pixels(i) == theirs.pixels(i)).all() for i in range(len(ours)))


def test_other_names_and_numbers(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["group/x"], file["y"] = pixels[..., 0], np.linspace(0, 1, COUNT)
    options = SourceOptions(images_key="group/x", labels_key="y")
    summary = link_file(find_source(path, options), tmp_path / "data", Shares(), 0)
    assert summary.task == "regression"
    images = open_split(tmp_path / "data", "train")
    assert images.labels.dtype == np.float32
    assert (images.pixels(0) == pixels[int(images.sample_ids[0]), :, :, :1]).all()  # grey


def test_the_warning_is_said_once(pixels: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = link(write(tmp_path / "theirs.h5", pixels, chunks=(7, 8, 8, 3)), tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        for split in ("train", "validation"):
            open_split(data, split)
    assert len(caplog.records) == 1
    shutil.rmtree(data)
