"""Blocks of some MiB that lie in a row in their shard: across a network one large read costs little more than a small.

An epoch that mixes the images of some blocks with each other (hpo.trial.order) reads each block once, whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

BLOCK_BYTES = 4 * 2**20


def cut_blocks(begins: np.ndarray, ends: np.ndarray, starts: list[int], size: int = BLOCK_BYTES) -> np.ndarray:
    """The first image of each block, int64: of `size` bytes or up to twice that, and none over two shards.

    Args:
        begins, ends: the places of N images in their shards, rising within each; starts: the first image of each shard,
            and N.
    """
    firsts = []
    for first, last in zip(starts, starts[1:], strict=False):
        if first < last:
            number = (begins[first:last] - begins[first]).astype(np.int64) // size
            number = np.minimum(number, max(0, int(ends[last - 1] - begins[first]) // size - 1))  # no crumb at the end
            firsts.append(first + np.unique(number, return_index=True)[1])
    return np.concatenate(firsts).astype(np.int64) if firsts else np.zeros(0, np.int64)


class Blocks:
    """The `capacity` blocks whose turn comes last. Threads may ask at the same time; each block is read once.

    Threads that read ahead ask in no certain order, so that what goes first is not what was read first. Of equal turns
    the oldest goes, used or not: one that was read ahead has not been used yet.
    """

    def __init__(self, read: Callable[[int], bytes], capacity: int) -> None:
        """`read`: gives the bytes of block number n."""
        self._read, self._capacity = read, capacity
        self._held: dict[int, Future[bytes]] = {}
        self._turns: dict[int, int] = {}
        self._lock = threading.Lock()

    def get(self, number: int, turn: int = 0) -> bytes:
        with self._lock:
            future = self._held.get(number)
            mine = future is None
            self._turns[number] = turn
            if future is None:
                future = self._held[number] = Future()
                while len(self._held) > self._capacity:
                    self._let_go(min(self._turns, key=self._turns.__getitem__))
        if mine:
            try:
                future.set_result(self._read(number))
            except BaseException as error:
                with self._lock:
                    if self._held.get(number) is future:
                        self._let_go(number)
                future.set_exception(error)
        return future.result()

    def forget(self) -> None:
        with self._lock:
            self._held.clear()
            self._turns.clear()

    def _let_go(self, number: int) -> None:
        del self._held[number], self._turns[number]
