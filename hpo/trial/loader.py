"""Batches of pixels, read ahead by threads.

Threads, not processes: decoding, resizing and copying let go of Python's lock, and a batch crosses no process border.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from hpo.data.blockwise import Blockwise
from hpo.data.pictures import Pictures
from hpo.data.shards import ShardSet
from hpo.errors import DataError
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.middle import Middle
from hpo.trial.order import WINDOW, EpochPlan
from hpo.trial.pixels import Delivery, Pixels
from hpo.trial.rows import Rows, RowTable

if TYPE_CHECKING:
    from hpo.data.decoded import Decoded

_DEADLINE = 900.0  # seconds for one batch; storage that takes longer is stuck


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, H, W, 3), rendered already unless `crops` says what is to be done on the device.

    samples: the images' ids (B,), from which their random numbers follow.
    rows: of a table the rest of what there is; `images` are then those that the rows have, row after row.
    """

    images: Tensor
    targets: Tensor
    samples: np.ndarray
    crops: Crops | None = None
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """Its tensors on `device`; copies of page-locked memory are not waited for."""
        images, targets = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.targets))
        return Batch(images, targets, self.samples, self.crops, self.rows and self.rows.to(device))

    @property
    def tensors(self) -> list[Tensor]:
        """Those that `to` moves."""
        return [self.images, self.targets, *([self.rows.numbers, self.rows.codes] if self.rows else [])]

    def part(self, first: int, last: int) -> Batch:
        places = self.rows.images_of(first, last) if self.rows else slice(first, last)
        crops = self.crops and Crops(self.crops.boxes[places], self.crops.flips[places])
        rows = self.rows and self.rows.part(first, last)
        return Batch(self.images[places], self.targets[first:last], self.samples[places], crops, rows)

    def opposite(self, first: int, last: int) -> Batch:
        """The part that lies as far from the end as `part(first, last)` from the start; its own order is not turned."""
        return self.part(max(0, len(self) - last), len(self) - first)


class Loader:
    """The batches of one split. `workers` threads read ahead; with 0 each batch is made when it is asked for."""

    def __init__(
        self,
        shards: ShardSet,
        targets: Tensor,
        delivery: Delivery,
        batch_size: int,
        workers: int,
        with_images: bool = True,
        decoded: Decoded | None = None,
        blocks: bool = False,
    ) -> None:
        """
        Args:
            with_images: False: of a table's rows no images are read.
            decoded: all pixels of the images, where the node has them; blocks: see mix_blocks.
        """
        self._targets, self._delivery = targets, delivery
        self._workers, self._count = workers, len(shards)
        self._shards: ShardSet | Pictures = Pictures(shards) if shards.columns else shards
        self._table = RowTable(shards, self._shards, with_images) if isinstance(self._shards, Pictures) else None
        self._ids, self._batch_size, self._decoded = np.asarray(self._shards.sample_ids), batch_size, decoded
        self.mix_blocks(blocks)
        cv2.setNumThreads(1)  # these threads are the parallelism; OpenCV would start its own in each
        self._pool = _start_threads(max(1, workers))

    def __len__(self) -> int:
        """Batches of a training epoch."""
        return len(self._plan)

    @property
    def images_an_update(self) -> int:
        """Of all ranks together."""
        return min(self._plan.batch_size, self._count)

    def mix_blocks(self, wanted: bool) -> None:
        """Whether epochs mix blocks of some MiB, each read at once, instead of all images with all others. Not where
        images do not lie in blocks, or a row has several."""
        blocks = self._shards.blocks() if wanted and not isinstance(self._shards, Pictures) else None
        self._plan = EpochPlan(self._count, self._batch_size, blocks)
        self._blocks: Blockwise | None = None
        if blocks is not None and isinstance(self._shards, ShardSet):
            part = len(range(self._delivery.rank, self._batch_size, self._delivery.world))
            self._blocks = Blockwise(self._shards, blocks, WINDOW, self._batch_size / max(1, part))
        self._pixels = Pixels(self._shards, self._delivery, self._decoded, self._blocks)

    def training(self, augmentation: Augmentation, first: int = 0) -> Iterator[Batch]:
        """A shuffled epoch of whole batches, from batch number `first` on."""
        plan, place = self._plan, (self._delivery.rank, self._delivery.world)
        if self._blocks:
            sequence = np.concatenate(plan.windows(augmentation.seed, augmentation.epoch))
            self._blocks.begin(sequence, first * plan.batch_size)
        return self._batches(plan.batches(augmentation.seed, augmentation.epoch, first, *place), augmentation)

    def evaluation(self, middle: Middle) -> Iterator[Batch]:
        """Every sample once, in order; of several ranks each takes its part of a batch. Rendered on the host, wherever
        training images are."""
        size, rank, world = self._plan.batch_size, self._delivery.rank, self._delivery.world
        starts = range(0, self._count, size)
        parts = (np.arange(start, min(start + size, self._count))[rank::world] for start in starts)
        return self._batches((part for part in parts if len(part)), middle)

    def rest(self) -> None:
        """Gives back the memory of batches until the next is asked for."""
        self._pixels.rest()
        if self._blocks:
            self._blocks.forget()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _batches(self, parts: Iterable[np.ndarray], look: Augmentation | Middle) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque()
        try:
            for part in parts:
                ahead.append(self._pool.submit(self._make, part, look))
                if len(ahead) > self._workers:
                    yield _wait(ahead.popleft())
            while ahead:
                yield _wait(ahead.popleft())
        finally:
            for future in ahead:  # the trial ended in mid-epoch
                future.cancel()

    def _make(self, indices: np.ndarray, look: Augmentation | Middle) -> Batch:
        targets = self._targets[torch.from_numpy(indices)]
        if self._delivery.pinned:
            targets = targets.pin_memory()
        rows = None
        if self._table:
            rows, indices = self._table.rows(indices), self._table.images(indices)
            rows = rows.pinned() if self._delivery.pinned else rows
        images, crops = (
            (self._pixels.middles(indices, look), None)
            if isinstance(look, Middle)
            else self._pixels.training(indices, look)
        )
        return Batch(images, targets, self._ids[indices], crops, rows)


def _start_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch's own kernels use one thread, whatever they use in the caller's."""
    pool, together = ThreadPoolExecutor(count, "slurmtune-loader"), threading.Barrier(count)

    def be_single() -> None:
        torch.get_num_threads()  # the first call in a thread sets it to the process's number
        torch.set_num_threads(1)
        together.wait(_DEADLINE)

    before = torch.get_num_threads()
    for future in [pool.submit(be_single) for _ in range(count)]:
        future.result()
    torch.set_num_threads(before)  # new threads and this one
    return pool


def _wait(future: Future[Batch]) -> Batch:
    try:
        return future.result(_DEADLINE)
    except TimeoutError:
        raise DataError(
            f"a batch was not read within {_DEADLINE:.0f} s; the storage of the data seems stuck."
        ) from None
