"""Blocks are large, lie in one shard, and are each read once in the order of an epoch; what is read is checked."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hpo.data import shards as module
from hpo.data.blocks import Blocks, cut_blocks
from hpo.data.blockwise import Blockwise
from hpo.data.bundled import ARCHIVE
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.shards import ShardSet
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError
from hpo.trial.order import EpochPlan

BLOCK = 64 * 1024


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled photographs as JPEG in shards of 1 MiB."""
    out = tmp_path_factory.mktemp("blocks") / "data"
    prepare(find_source(ARCHIVE), out, Recipe(size=64, shard_mib=1))
    return out


def test_blocks_are_of_a_size_and_in_one_shard() -> None:
    sizes = np.random.default_rng(0).integers(1, 2000, 3000)
    begins, starts = np.zeros(3000, np.uint64), [0, 1000, 1001, 3000]
    for first, last in zip(starts, starts[1:], strict=False):
        begins[first:last] = 5000 + np.cumsum(sizes[first:last]) - sizes[first:last]
    blocks = cut_blocks(begins, begins + sizes.astype(np.uint64), starts, 10_000)
    assert blocks[0] == 0
    assert set(starts[:3]) <= set(blocks.tolist())
    held = np.add.reduceat(sizes, blocks)
    whole = held[blocks != 1000]  # but for the shard of one image
    assert whole.min() > 10_000 - 2000
    assert whole.max() < 20_000 + 2000
    assert len(cut_blocks(begins[:0], begins[:0], [0, 0], 10)) == 0


class Counting:
    """Counts what is read of a ShardSet, and how much at once."""

    def __init__(self, shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        self.singles = 0
        for file in shards._files:
            monkeypatch.setattr(file, "read", self._counted(file.read))

    def _counted(self, read):  # type: ignore[no-untyped-def]
        def counted(begin: int, size: int) -> bytes:
            self.runs.append(size)
            return read(begin, size)

        return counted


@pytest.mark.parametrize("world", [1, 3])
def test_an_epoch_reads_each_block_once_and_gives_what_shards_give(
    stored: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, shards = open_split(stored, "train"), open_split(stored, "train")
    monkeypatch.setattr(module, "cut_blocks", lambda *places: cut_blocks(*places, BLOCK))
    starts = shards.blocks()
    assert starts is not None
    assert len(starts) > 100
    counted = Counting(shards, monkeypatch)
    plan = EpochPlan(len(shards), 32, starts)
    blockwise = Blockwise(shards, starts, 64, 32 / len(range(0, 32, world)))  # of three ranks the first has 11 of 32
    for epoch in range(2):
        counted.runs.clear()
        blockwise.begin(np.concatenate(plan.windows(0, epoch)), 0)
        blockwise.forget()
        parts = list(plan.batches(0, epoch, 0, 0, world))
        with ThreadPoolExecutor(2) as threads:
            for first in range(0, len(parts), 2):  # blocks are this small: a thread far behind reads some again
                some = parts[first : first + 2]
                for part, found in zip(some, threads.map(blockwise.read_many, some), strict=True):
                    assert found == plain.read_many(part)
        assert len(counted.runs) <= len(starts)
        assert len(counted.runs) >= len(starts) - 2  # the rest that fills no batch may be all of a block
        assert min(counted.runs) > BLOCK - 8192


def test_reading_goes_on_in_the_middle(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = open_split(stored, "train")
    monkeypatch.setattr(module, "cut_blocks", lambda *places: cut_blocks(*places, BLOCK))
    starts = shards.blocks()
    assert starts is not None
    counted = Counting(shards, monkeypatch)
    plan = EpochPlan(len(shards), 32, starts)
    blockwise = Blockwise(shards, starts, 64)
    blockwise.begin(np.concatenate(plan.windows(0, 1)), 80 * 32)
    for part in plan.batches(0, 1, 80):
        assert blockwise.read_many(part) == open_split(stored, "train").read_many(part)
    assert len(counted.runs) < len(starts) * 0.6  # nothing is replayed


def test_threads_wait_for_a_block_and_a_failure_is_not_kept() -> None:
    reads, fails = [], threading.Event()

    def read(number: int) -> bytes:
        reads.append(number)
        time.sleep(0.05)
        if number == 7 and not fails.is_set():
            fails.set()
            raise DataError("cut short")
        return b"block %d" % number

    blocks = Blocks(read, 3)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(blocks.get, [1] * 8)) == {b"block 1"}
    assert reads == [1]
    with pytest.raises(DataError, match="cut short"):
        blocks.get(7)
    assert blocks.get(7) == b"block 7"
    for number in (2, 3, 1):
        blocks.get(number)
    assert reads == [1, 7, 7, 2, 3, 1]  # the oldest of four was let go
    blocks.forget()
    blocks.get(1)
    assert reads[-1] == 1


def test_many_are_read_as_each_is(stored: Path) -> None:
    shards = open_split(stored, "train")
    order = np.random.default_rng(0).permutation(len(shards))
    assert shards.read_many(order) == [shards.read_bytes(i) for i in order.tolist()]
    assert shards.read_many(np.array([], np.int64)) == []
    for wrong in (-1, len(shards)):
        with pytest.raises(IndexError):
            shards.read_many(np.array([0, wrong]))


@pytest.fixture
def spoilt(stored: Path, tmp_path: Path) -> tuple[ShardSet, Path, int]:
    """Open data, the first shard's file, and a byte in the middle of its image 3."""
    data = shutil.copytree(stored, tmp_path / "copy")
    shards = open_split(data, "train")
    return shards, sorted(data.glob("train-*.h5"))[0], int(shards._begin[3] + shards._size[3] // 2)


def spoil(path: Path, place: int, keep_time: bool) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    time_ns = before.st_mtime_ns if keep_time else before.st_mtime_ns + 1
    os.utime(path, ns=(time_ns, time_ns))


@pytest.mark.parametrize("by_blocks", [False, True])
def test_damage_is_found_at_the_first_reading(spoilt: tuple[ShardSet, Path, int], by_blocks: bool) -> None:
    shards, path, place = spoilt
    spoil(path, place, keep_time=True)
    reader = Blockwise(shards, shards.blocks(), 4) if by_blocks else shards
    with pytest.raises(DataError, match=f"shard {path} sample 3 is damaged"):
        reader.read_many(np.arange(8))


@pytest.mark.parametrize("by_blocks", [False, True])
def test_a_shard_that_was_written_to_is_compared_again(spoilt: tuple[ShardSet, Path, int], by_blocks: bool) -> None:
    shards, path, place = spoilt
    reader = Blockwise(shards, shards.blocks(), 4) if by_blocks else shards
    before = reader.read_many(np.arange(8))
    os.utime(path, ns=(1, 1))
    assert reader.read_many(np.arange(8)) == before
    spoil(path, place, keep_time=False)
    if by_blocks:
        reader.forget()
    with pytest.raises(DataError, match=f"shard {path} sample 3 is damaged"):
        reader.read_many(np.arange(8))


@pytest.mark.parametrize("by_blocks", [False, True])
def test_a_shard_cut_short_is_named(spoilt: tuple[ShardSet, Path, int], by_blocks: bool) -> None:
    shards, path, _ = spoilt
    reader = Blockwise(shards, shards.blocks(), 4) if by_blocks else shards
    os.truncate(path, int(shards._begin[2]))
    with pytest.raises(DataError, match="changed while it was used|cut short") as caught:
        reader.read_many(np.arange(8))
    assert str(path) in str(caught.value)
