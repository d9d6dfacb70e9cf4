"""Pixels decoded once on a node are those of the decoder, made once for many processes, and gone with the last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpo.data import decoded, nodecopy
from hpo.data.decode import decode_rgb
from hpo.data.decoded import decode_once
from hpo.data.link import link_file
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.split import Shares
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError

USE = """
import sys, logging
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from hpo.data.decoded import decode_once
from hpo.data.read import open_split
found = decode_once(open_split(sys.argv[1], "train"))
print("SUM", sum(int(found.pixels(i).sum()) for i in range(24)), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def jpegs(split_folder: Path, tmp_path: Path) -> Path:
    prepare(find_source(split_folder), tmp_path / "data", Recipe())
    return tmp_path / "data"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "node disk"
    place.mkdir()
    monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", str(place))
    monkeypatch.setattr(nodecopy, "_leases", {})
    monkeypatch.setattr(nodecopy.atexit, "register", lambda _: None)
    return place


def test_pixels_are_the_decoders(jpegs: Path, local: Path) -> None:
    for split in ("train", "validation"):
        shards = open_split(jpegs, split)
        found = decode_once(shards)
        assert found
        for i in range(len(shards)):
            assert (found.pixels(i) == decode_rgb(shards.read_bytes(i))).all()
    found.pixels(0)[:] = 7  # this process's own
    again = decode_once(shards)
    assert again
    assert (again.pixels(0) == decode_rgb(shards.read_bytes(0))).all()


def test_processes_share_them_and_the_last_removes_them(jpegs: Path, local: Path) -> None:
    command = [sys.executable, "-c", USE, str(jpegs)]
    users = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = []
    for user in users:
        assert user.stdout
        while not (line := user.stdout.readline()).startswith("SUM"):
            told.append(line)
        told.append(line)
    shards = open_split(jpegs, "train")
    total = sum(int(decode_rgb(shards.read_bytes(i)).sum()) for i in range(24))
    assert [line for line in told if line.startswith("SUM")] == [f"SUM {total}\n"] * 3
    assert sum("copied to" in line or "decoded" in line for line in told) == 1
    assert len(list(local.rglob("pixels.u8"))) == 1
    for user in users:
        user.communicate("end\n", timeout=60)
    assert not list(local.iterdir())


def test_what_does_not_fit_is_left(
    jpegs: Path, local: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = open_split(jpegs, "train")
    needed = int((shards.heights * shards.widths).sum()) * 3
    for variable, fits in ((needed / 2**20 * 0.99, False), (0, False), (needed / 2**20 * 1.01, True)):
        monkeypatch.setenv("SLURMTUNE_DECODED_MB", str(variable))
        assert (decode_once(shards) is not None) == fits
    monkeypatch.setenv("SLURMTUNE_DECODED_MB", "many")
    with pytest.raises(UsageError, match="SLURMTUNE_DECODED_MB must be a number of MiB, got 'many'"):
        decode_once(shards)
    monkeypatch.delenv("SLURMTUNE_DECODED_MB")
    while nodecopy._leases:
        os.close(nodecopy._leases.popitem()[1])  # as when the process ends
    nodecopy.remove_copies()
    monkeypatch.setattr(nodecopy, "free_bytes", lambda _: 2**20)
    with caplog.at_level("INFO"):
        assert decode_once(shards) is None
    assert "1 MiB free" in caplog.text
    assert 2**24 < decoded.room() <= 32 * 2**30


def test_damage_is_named_and_nothing_is_left(jpegs: Path, local: Path) -> None:
    shards = open_split(jpegs, "train")
    path = jpegs / "train-00000-of-00001.h5"
    with path.open("r+b") as file:
        file.seek(int(shards._begin[5]) + 300)
        file.write(b"other bytes")
    with pytest.raises(DataError, match=f"shard {path} sample 5 is damaged"):
        decode_once(open_split(jpegs, "train"))
    assert not list(local.rglob("pixels*.u8"))


def test_raw_shards_need_none_and_foreign_chunks_do(jpegs: Path, local: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 9, 3), np.uint8)
    for name, storage in (("plain", {}), ("chunked", {"chunks": (7, 8, 9, 3), "compression": "gzip"})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("images", data=pixels, **storage)
            file["labels"] = np.arange(30) % 3
        link_file(find_source(tmp_path / f"{name}.h5"), tmp_path / name, Shares(0, 0), 0)
    assert decode_once(open_split(tmp_path / "plain", "train")) is None
    found = decode_once(open_split(tmp_path / "chunked", "train"))
    assert found
    out = np.zeros((30, 8, 9, 3), np.uint8)
    order = np.random.default_rng(1).permutation(30)
    found.gather(order, out)
    assert (out == pixels[order]).all()
