"""Shards are of format 1, and reading them by offset gives what HDF5 gives, also moved, forked and pickled."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpo.data.decode import decode_rgb
from hpo.data.plan import Recipe
from hpo.data.read import describe, open_split
from hpo.data.shards import ShardSet
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled photographs, 64 x 64 raw, in shards of 1 MiB."""
    from hpo.data.bundled import ARCHIVE

    out = tmp_path_factory.mktemp("demo") / "data"
    prepare(find_source(ARCHIVE), out, Recipe(encoding="raw", size=64, shard_mib=1))
    return out


@pytest.fixture
def jpegs(split_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "data"
    prepare(find_source(split_folder), out, Recipe())
    return out


def edit_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_file_is_of_format_1(jpegs: Path) -> None:
    path = jpegs / "train-00000-of-00001.h5"
    with h5py.File(path, "r", locking=False) as file:
        kinds = {name: (file[name].dtype.str, file[name].shape) for name in file}
        total = int(file["offsets"][-1])
        assert kinds == {
            "bytes": ("|u1", (total,)),
            "offsets": ("<u8", (25,)),
            "shape": ("<u2", (24, 3)),
            "labels": ("<i8", (24,)),
            "sample_id": ("<u8", (24,)),
            "crc32": ("<u4", (24,)),
        }
        for dataset in file.values():
            assert dataset.chunks is None
            assert dataset.id.get_offset() is not None
        attributes = dict(file.attrs)
        expected = {
            "format": "hpoh5",
            "format_version": 1,
            "encoding": "jpeg",
            "split": "train",
            "shard_index": 0,
            "num_shards": 1,
            "num_samples": 24,
            "num_classes": 3,
            "color": "RGB",
            "complete": 1,
        }
        assert {name: attributes[name] for name in expected} == expected
        assert json.loads(attributes["class_names"]) == ["hat", "shoes", "t-shirt"]
        assert json.loads(attributes["source"])["quality"] == 95
        first = file["bytes"][: file["offsets"][1]].tobytes()
        assert zlib.crc32(first) == file["crc32"][0]
    assert first.startswith(b"\xff\xd8")


def test_jpegs_come_back_byte_for_byte(jpegs: Path, split_folder: Path) -> None:
    shards = open_split(jpegs, "train")
    files = sorted((split_folder / "train").rglob("*.jpg"))
    assert len(shards) == 24
    assert [shards.read_bytes(i) for i in range(24)] == [file.read_bytes() for file in files]
    assert [shards.class_names[label] for label in shards.labels] == [file.parent.name for file in files]
    assert (shards.encoding, shards.image_shape, shards.task, shards.num_classes) == ("jpeg", None, "classification", 3)
    assert shards.labels.dtype == np.int64
    assert shards.sample_ids.dtype == np.uint64
    assert shards.heights.dtype == shards.widths.dtype == np.int64
    for i in range(24):
        assert decode_rgb(shards.read_bytes(i)).shape == (shards.heights[i], shards.widths[i], 3)
    for i in (-1, 24):
        with pytest.raises(IndexError):
            shards.read_bytes(i)
    with pytest.raises(TypeError, match="raw"):
        shards.gather(np.array([0]), np.empty((1, 64, 64, 3), np.uint8))


def test_raw_images_gather_as_hdf5_reads_them(demo: Path) -> None:
    shards = open_split(demo, "train")
    assert len(list(demo.glob("train-*.h5"))) > 30
    expected = []
    for path in sorted(demo.glob("train-*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            assert file["images"].id.get_offset() % 2**20 == 0
            expected.append(file["images"][...])
    pixels = np.concatenate(expected)
    chosen = np.random.default_rng(0).integers(0, len(shards), 500)
    out = np.zeros((500, 64, 64, 3), np.uint8)
    shards.gather(chosen, out)
    assert (out == pixels[chosen]).all()
    assert shards.read_bytes(1234) == pixels[1234].tobytes()
    shards.gather(np.array([], np.int64), np.empty((0, 64, 64, 3), np.uint8))


def test_one_shard_gathers_as_many_do(demo: Path, tmp_path: Path) -> None:
    from hpo.data.bundled import ensure_demo_data

    single = open_split(ensure_demo_data(tmp_path / "single"), "validation")
    several = open_split(demo, "validation")
    assert single.fingerprint == several.fingerprint  # however it is cut
    chosen = np.random.default_rng(0).permutation(len(single))[:100]
    left, right = (np.zeros((100, 64, 64, 3), np.uint8) for _ in range(2))
    single.gather(chosen, left)
    several.gather(chosen, right)
    assert (left == right).all()
    assert left.any()


@pytest.mark.parametrize("wrong", ["shape", "type", "high", "low"])
def test_gather_refuses_what_it_cannot_fill(demo: Path, wrong: str) -> None:
    shards = open_split(demo, "test")
    out = np.empty((1, 64, 32 if wrong == "shape" else 64, 3), np.float32 if wrong == "type" else np.uint8)
    index = {"high": len(shards), "low": -1}.get(wrong, 0)
    with pytest.raises(IndexError if wrong in ("high", "low") else ValueError):
        shards.gather(np.array([index]), out)


def test_a_moved_copy_reads_the_same(demo: Path, jpegs: Path, tmp_path: Path) -> None:
    for number, directory in enumerate((demo, jpegs)):
        copy = tmp_path / f"elsewhere {number}"
        shutil.copytree(directory, copy, copy_function=shutil.copy)  # new times
        assert describe(copy).fingerprint == describe(directory).fingerprint
        before, after = open_split(directory, "test"), open_split(copy, "test")
        assert (before.labels == after.labels).all()
        assert [before.read_bytes(i) for i in range(len(before))] == [after.read_bytes(i) for i in range(len(after))]


def test_a_copy_never_uses_offsets_that_are_not_its_own(jpegs: Path, tmp_path: Path) -> None:
    """Rewritten by HDF5 with another layout of the file: other offsets, other size, same content."""
    path = jpegs / "test-00000-of-00001.h5"
    expected = [open_split(jpegs, "test").read_bytes(i) for i in range(6)]
    with h5py.File(path, "r", locking=False) as old, h5py.File(tmp_path / "new.h5", "w") as new:
        new.create_dataset("something", data=np.ones(1000))
        for name in reversed(list(old)):
            old.copy(name, new)
        new.attrs.update(old.attrs)
        assert new["bytes"].id.get_offset() != old["bytes"].id.get_offset()
    shutil.copy(tmp_path / "new.h5", path)
    shards = open_split(jpegs, "test")
    assert [shards.read_bytes(i) for i in range(6)] == expected


@pytest.mark.parametrize("change", ["other", "cut", "gone", "incomplete", "text"])
def test_a_shard_that_is_not_the_one_described(jpegs: Path, change: str) -> None:
    path = jpegs / "test-00000-of-00001.h5"
    if change == "other":
        shutil.copy(jpegs / "validation-00000-of-00001.h5", path)
    elif change == "cut":
        os.truncate(path, path.stat().st_size - 100)
    elif change == "gone":
        path.unlink()
    elif change == "text":
        path.write_text("hello")
    else:
        with h5py.File(path, "r+") as file:
            del file.attrs["complete"]
    with pytest.raises(DataError) as caught:
        open_split(jpegs, "test")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(open_split(jpegs, "train")) == 24


def repack(path: Path, rows: int) -> None:
    """As h5repack -f GZIP does."""
    with h5py.File(path, "r+", locking=False) as file:
        for name in list(file):
            values = file[name][...]
            del file[name]
            file.create_dataset(name, data=values, chunks=(min(rows, len(values)), *values.shape[1:]), compression=4)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_repacked_shard_is_read_through_hdf5(
    demo: Path, jpegs: Path, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = shutil.copytree(demo if kind == "raw" else jpegs, tmp_path / "copy")
    before = open_split(directory, "validation")
    expected = checksum_all(before)
    pixels = np.zeros((20, 64, 64, 3), np.uint8)
    order = np.random.default_rng(0).permutation(len(before))[:20]
    if kind == "raw":
        before.gather(order, pixels)
    before.close()
    for path in directory.glob("validation-*.h5"):
        repack(path, 7)
    shards = open_split(directory, "validation")
    assert (shards.labels == before.labels).all()
    assert [record.message.count("was repacked") for record in caplog.records] == [1]  # said once for all shards
    assert checksum_all(shards) == expected
    if kind == "raw":
        again = np.zeros_like(pixels)
        shards.gather(order, again)
        assert (again == pixels).all()
    with multiprocessing.get_context("fork").Pool(2) as pool:  # open in the parent already
        assert pool.map(checksum_all, [shards] * 2) == [expected] * 2
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: checksum_all(shards), range(4))) == [expected] * 4
    assert checksum_all(pickle.loads(pickle.dumps(shards))) == expected


@pytest.mark.parametrize("change", ["cut", "pixels", "time"])
def test_a_shard_that_changes_while_in_use(demo: Path, change: str, tmp_path: Path) -> None:
    directory = shutil.copytree(demo, tmp_path / "copy")
    shards = open_split(directory, "test")
    path, indices, out = sorted(directory.glob("test-*.h5"))[0], np.arange(3), np.zeros((3, 64, 64, 3), np.uint8)
    shards.gather(indices, out)
    expected = out.copy()
    if change == "cut":
        os.truncate(path, path.stat().st_size - 4096)
    elif change == "pixels":
        with path.open("r+b") as file:
            file.seek(int(shards._begin[2]))
            file.write(b"other pixels")
    os.utime(path, ns=(1, 1))
    if change == "time":
        shards.gather(indices, out)
        assert (out == expected).all()
        return
    with pytest.raises(DataError, match="changed while it was used|sample 2 is damaged") as caught:
        shards.gather(indices, out)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "value", "message"),
    [
        ("labels", 3, "sample 2 has label 3"),
        ("labels", -1, "sample 2 has label -1"),
        ("offsets", 1 << 40, "sample"),
        ("offsets", 0, "sample 1: its offsets do not rise"),
    ],
)
def test_tables_are_not_believed(jpegs: Path, dataset: str, value: int, message: str) -> None:
    path = jpegs / "test-00000-of-00001.h5"
    with h5py.File(path, "r+", locking=False) as file:
        file[dataset][2] = value
    with pytest.raises(DataError, match=message):
        open_split(jpegs, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "is of format 4, this program reads 3; use a newer slurmtune"),
        ({"format": "other"}, "is damaged"),
        ({"splits": {"train": 24, "validation": 6}}, "'test' is missing"),
        ({"splits": {"train": 25, "validation": 6, "test": 6}}, "split 'train' has 25 samples, its shards have 24"),
        ({"task": "guessing"}, "'task' is 'guessing', not one of"),
        ({"class_names": ["a"]}, "3 classes, 1 class names"),
        ({"fingerprint": None}, "'fingerprint' is None"),
        ({"shards": [{"path": "../../etc/passwd"}]}, "leads out of the directory"),
        ({"shards": "none"}, "'shards' is 'none'"),
        ({"num_classes": -3}, "'num_classes' is -3"),
    ],
)
def test_a_manifest_that_cannot_be_used(jpegs: Path, changes: dict[str, Any], message: str) -> None:
    edit_manifest(jpegs, **changes)
    for use in (lambda: describe(jpegs), lambda: open_split(jpegs, "train")):
        with pytest.raises(DataError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_directories_without_data(jpegs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; make it with"):
        describe(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no data"):
        describe(tmp_path)
    with pytest.raises(DataError, match=r"no split 'dev'; it has train \(24\), validation \(6\), test \(6\)"):
        open_split(jpegs, "dev")
    (jpegs / "manifest.json").write_text('{"format": "hpo')
    with pytest.raises(DataError, match="is damaged"):
        describe(jpegs)
    (jpegs / "manifest.json").unlink()
    (jpegs / ".prepare").mkdir()
    with pytest.raises(DataError, match="is not finished; run the same prepare.py command again"):
        describe(jpegs)


def checksum_all(shards: ShardSet) -> list[int]:
    return [zlib.crc32(shards.read_bytes(i)) for i in range(len(shards))]


def test_threads_forks_and_pickles_read_the_same(demo: Path) -> None:
    shards = open_split(demo, "validation")
    with ThreadPoolExecutor(8) as pool:  # from the first read on: opening is part of it
        by_thread = list(pool.map(lambda _: checksum_all(shards), range(8)))
    expected = checksum_all(open_split(demo, "validation"))
    assert all(found == expected for found in by_thread)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(checksum_all, [shards] * 2) == [expected] * 2
    again = pickle.loads(pickle.dumps(shards))
    assert checksum_all(again) == expected
    again.close()
    assert checksum_all(again) == expected


def test_more_shards_than_open_files(demo: Path) -> None:
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from hpo.data.read import open_split
shards = open_split(sys.argv[1], "train")
print(sum(len(shards.read_bytes(i)) for i in range(len(shards))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(demo)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) == 3068 * 64 * 64 * 3


def test_describe_loads_the_standard_library_only(jpegs: Path) -> None:
    code = """
import sys
from hpo.data.read import describe
summary = describe(sys.argv[1])
print(summary.splits, summary.encoding, summary.num_shards)
heavy = {"numpy", "h5py", "PIL", "cv2", "simplejpeg", "torch", "ray"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code, str(jpegs)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "{'train': 24, 'validation': 6, 'test': 6} jpeg 3\n"
