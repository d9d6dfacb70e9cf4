"""In which order an epoch shows the samples: a pure function of seed and epoch.

The same whatever the number of workers and ranks, and any batch of it can be the first: nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpo.trial.randomness import derive, permutation

WINDOW = 64  # blocks that are mixed with each other
_PURPOSE = 6  # tells these numbers from those of other purposes


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """Epochs of `count` samples in whole batches; what fills none is left out, another rest each time.

    `blocks` None: full random order, for storage that finds one place as fast as another. Else the first sample of each
    block, int64: blocks of some MiB, each of which is read at once, come in random order, and the samples of WINDOW
    blocks are mixed (as in MosaicML's and FFCV's shuffles), for storage across a network that holds more than memory.
    """

    count: int
    batch_size: int
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return max(1, self.count // self.batch_size)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The samples of an epoch, int64, as long as its batches."""
        order = permutation(self.count, seed, epoch) if self.blocks is None else self._mixed_blocks(seed, epoch)
        return order[: len(self) * self.batch_size]

    def windows(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The blocks that are mixed with each other, in the order in which they are needed."""
        blocks = np.zeros(1, np.int64) if self.blocks is None else self.blocks
        return np.split(permutation(len(blocks), seed, epoch), range(WINDOW, len(blocks), WINDOW))

    def batches(self, seed: int, epoch: int, first: int = 0, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
        """The samples of each batch from number `first` on; of `world` ranks each takes every world-th of a batch."""
        order = self.order(seed, epoch)
        for start in range(first * self.batch_size, len(order), self.batch_size):
            yield order[start : start + self.batch_size][rank::world]

    def _mixed_blocks(self, seed: int, epoch: int) -> np.ndarray:
        assert self.blocks is not None
        window_of_block = np.empty(len(self.blocks), np.int64)
        for window, blocks in enumerate(self.windows(seed, epoch)):
            window_of_block[blocks] = window
        lengths = np.diff(np.append(self.blocks, self.count))
        noise = np.random.Generator(np.random.Philox(key=derive(seed, epoch, _PURPOSE))).random(self.count)
        return np.argsort(np.repeat(window_of_block, lengths) + noise, kind="stable")
