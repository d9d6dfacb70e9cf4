"""Images of a split read block by block, in the order of an epoch's plan, some blocks ahead of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from hpo.data.blocks import Blocks

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_A_FEW = 4


class Blockwise:
    """Reads like `shards`, which have blocks. `begin` says in which order blocks will be needed; without it, and for
    images out of that order, blocks are read when they are asked for."""

    def __init__(self, shards: ShardSet, starts: np.ndarray, window: int, share: float = 1) -> None:
        """
        Args:
            starts: the first image of each block; window: blocks that are mixed with each other, of which two are held.
            share: images that all ranks together read for each one that is read here.
        """
        self._shards, self._starts, self._window, self._share = shards, starts, window, share
        self._blocks = Blocks(self._read_block, 2 * window + window // 8)  # some more, for threads that are behind
        self._sequence, self._ends = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._served, self._fetched, self._turns = 0.0, 0, np.zeros(len(starts), np.int64)
        self._lock = threading.Lock()

    def begin(self, sequence: np.ndarray, position: int) -> None:
        """An epoch that needs blocks in this order, at its image number `position`."""
        with self._lock:
            lengths = np.diff(np.append(self._starts, len(self._shards)))
            self._sequence, self._ends, self._served = sequence, np.cumsum(lengths[sequence]), position
            turns = np.full(len(self._starts), self._turns.max(initial=0) + 1)  # after all of the epoch before
            turns[sequence] += np.arange(len(sequence))
            self._turns = turns
            self._fetched = int(np.searchsorted(self._ends, position, side="right")) // self._window * self._window

    def read_many(self, indices: np.ndarray) -> list[bytes]:
        """As ShardSet.read_many."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        first = self._starts[numbers]
        places = (self._shards.begins(indices) - self._shards.begins(first)).tolist()
        sizes = self._shards.sizes(indices).tolist()
        found, turns = [], self._turns
        for number, place, size in zip(numbers.tolist(), places, sizes, strict=True):
            found.append(self._blocks.get(number, turns[number])[place : place + size])
        self._shards.verify(indices, found)
        self._read_ahead(len(indices) * self._share)
        return found

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """As ShardSet.gather."""
        for place, data in enumerate(self.read_many(indices)):
            out[place] = np.frombuffer(data, np.uint8).reshape(out.shape[1:])

    def forget(self) -> None:
        self._blocks.forget()

    def _read_ahead(self, served: float) -> None:
        """All blocks of the window at hand, which are wanted anyway; those of the next a few at a time, while this one
        is used, not all of them at its beginning."""
        with self._lock:
            self._served += served
            done = int(np.searchsorted(self._ends, self._served, side="right"))
            at_hand = (done // self._window + 1) * self._window
            until = min(len(self._sequence), done + self._window, max(at_hand, self._fetched + _A_FEW))
            wanted = self._sequence[self._fetched : until].tolist()
            self._fetched = max(self._fetched, until)
            turns = self._turns
        for number in wanted:
            self._blocks.get(number, turns[number])

    def _read_block(self, number: int) -> bytes:
        last = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._shards)
        return self._shards.read_run(int(self._starts[number]), int(last))
