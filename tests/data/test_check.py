"""Damage is found, and shard and sample are named."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest

from hpo.data.check import check
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError

SHARD = "train-00000-of-00001.h5"


@pytest.fixture(params=["jpeg", "raw"])
def data(request: pytest.FixtureRequest, split_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "data"
    prepare(find_source(split_folder), out, Recipe(encoding=request.param, size=64))
    return out


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def offset_of(path: Path, name: str) -> int:
    with h5py.File(path, "r", locking=False) as file:
        return file[name].id.get_offset()


def lines(directory: Path, workers: int = 1) -> list[str]:
    return [str(damage) for damage in check(directory, workers)]


def test_sound_data_is_sound(data: Path) -> None:
    told: list[tuple[int, int, str, str]] = []
    assert check(data, 2, lambda *progress: told.append(progress)) == []
    assert told[-1] == (36, 36, "images", "")


def test_a_flipped_bit_is_named(data: Path) -> None:
    shards = open_split(data, "train")
    place = int(shards._begin[17]) + 100
    flip(data / SHARD, place)
    assert lines(data) == [
        f"{SHARD}: its sha256 is not the one in the manifest",
        f"{SHARD} sample 17: crc32 differs (sample_id {shards.sample_ids[17]})",
    ]
    again = open_split(data, "train")
    again.read_bytes(16)
    with pytest.raises(DataError, match=f"{SHARD} sample 17 is damaged"):
        again.read_bytes(17)


def test_every_damaged_sample_of_every_shard_is_named(data: Path) -> None:
    for name in (SHARD, "test-00000-of-00001.h5"):
        shards = open_split(data, name.split("-")[0])
        content = bytearray((data / name).read_bytes())
        for sample in (0, 3, 5):
            content[int(shards._begin[sample]) + 50] ^= 1
        (data / name).write_bytes(content)
    found = {(damage.shard, damage.sample) for damage in check(data, 2) if damage.sample is not None}
    assert found == {(name, sample) for name in (SHARD, "test-00000-of-00001.h5") for sample in (0, 3, 5)}


def test_a_label_out_of_range_is_named(data: Path) -> None:
    with h5py.File(data / SHARD, "r+", locking=False) as file:
        file["labels"][5] = 17
    assert any("sample 5 has label 17; expected 0 to 2" in line for line in lines(data))


def test_a_changed_label_in_range_is_found(data: Path) -> None:
    with h5py.File(data / SHARD, "r+", locking=False) as file:
        file["labels"][5] = 2
    assert lines(data) == [f"{SHARD}: its sha256 is not the one in the manifest"]


def test_shapes_and_offsets_are_checked(data: Path) -> None:
    with h5py.File(data / SHARD, "r+", locking=False) as file:
        if "offsets" in file:
            file["offsets"][4] = 0
            expected = "sample 3: its offsets do not rise"
        else:
            file["shape"][3] = (64, 65, 3)
            expected = r"sample 3 has shape [64, 65, 3], not [64, 64, 3]"
    assert any(expected in line for line in lines(data))


def test_a_damaged_header_does_not_hide_the_samples(data: Path) -> None:
    place = int(open_split(data, "train")._begin[2])
    flip(data / SHARD, 0)
    flip(data / SHARD, place)
    found = lines(data)
    assert any("cannot be opened as HDF5" in line for line in found)
    assert any("sample 2: crc32 differs" in line for line in found)


def test_files_that_are_cut_gone_or_grown(data: Path) -> None:
    (data / "test-00000-of-00001.h5").unlink()
    validation = data / "validation-00000-of-00001.h5"
    size = validation.stat().st_size
    with validation.open("ab") as stream:
        stream.write(b"more")
    os.truncate(data / SHARD, offset_of(data / SHARD, "labels") + 8)
    found = lines(data, 2)
    assert any(line.startswith("test-00000-of-00001.h5: cannot be read: No such file") for line in found)
    assert f"validation-00000-of-00001.h5: has {size + 4} bytes, was written with {size}" in found
    assert any(line.startswith(SHARD) and "truncated" in line for line in found)
