"""Batches of pixels, read ahead by threads.

Threads, not processes: decoding, resizing and copying let go of Python's lock, and a batch crosses no process border.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from hpo.data.decode import decode_rgb
from hpo.errors import DataError
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.randomness import permutation
from hpo.trial.render import render_image

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_CHUNK = 16  # images decoded before they are rendered: enough to share numpy's overhead, few for large photographs
_DEADLINE = 900.0  # seconds for one batch; storage that takes longer is stuck


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, H, W, 3) on the host, rendered already unless `crops` says what is to be done on the device."""

    images: Tensor
    targets: Tensor
    crops: Crops | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, first: int, last: int) -> Batch:
        crops = self.crops and Crops(self.crops.boxes[first:last], self.crops.flips[first:last])
        return Batch(self.images[first:last], self.targets[first:last], crops)

    def opposite(self, first: int, last: int) -> Batch:
        """The part that lies as far from the end as `part(first, last)` from the start; its own order is not turned."""
        return self.part(max(0, len(self) - last), len(self) - first)


@dataclass(frozen=True)
class Delivery:
    """How batches are to arrive: the side of rendered images, where raw ones are rendered, and in what memory."""

    size: int
    on_device: bool  # raw images are cropped and resized on the device
    pinned: bool  # in page-locked memory, from which a GPU copies without waiting


class Loader:
    """The batches of one split. `workers` threads read ahead; with 0 the caller reads."""

    def __init__(self, shards: ShardSet, targets: Tensor, delivery: Delivery, batch_size: int, workers: int) -> None:
        self._shards, self._targets, self._delivery = shards, targets, delivery
        self._batch_size, self._workers = batch_size, workers
        self._ids = np.asarray(shards.sample_ids)
        cv2.setNumThreads(1)  # these threads are the parallelism; OpenCV would start its own in each
        self._pool = ThreadPoolExecutor(workers, "slurmtune-loader") if workers else None

    def __len__(self) -> int:
        """Batches of a training epoch."""
        return max(1, len(self._shards) // self._batch_size)

    def training(self, augmentation: Augmentation) -> Iterator[Batch]:
        """A shuffled epoch of whole batches; the rest that fills none is left out, another one each time."""
        order = permutation(len(self._shards), augmentation.seed, augmentation.epoch or 0)
        return self._batches(order[: len(self) * self._batch_size], augmentation)

    def evaluation(self, augmentation: Augmentation) -> Iterator[Batch]:
        """Every sample once, in order."""
        return self._batches(np.arange(len(self._shards)), augmentation)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _batches(self, order: np.ndarray, augmentation: Augmentation) -> Iterator[Batch]:
        parts = [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]
        if not self._pool:
            yield from (self._make(part, augmentation) for part in parts)
            return
        ahead: deque[Future[Batch]] = deque()
        try:
            for part in parts:
                ahead.append(self._pool.submit(self._make, part, augmentation))
                if len(ahead) > self._workers:
                    yield _wait(ahead.popleft())
            while ahead:
                yield _wait(ahead.popleft())
        finally:
            for future in ahead:  # the trial ended in mid-epoch
                future.cancel()

    def _make(self, indices: np.ndarray, augmentation: Augmentation) -> Batch:
        targets = self._targets[torch.from_numpy(indices)]
        if self._delivery.pinned:
            targets = targets.pin_memory()
        if self._shards.image_shape is None:
            return Batch(self._decode(indices, augmentation), targets)
        height, width, _ = self._shards.image_shape
        sizes = (np.full(len(indices), height), np.full(len(indices), width))
        crops = augmentation.crops(self._ids[indices], *sizes)
        images = self._buffer(len(indices), height, width)
        self._shards.gather(indices, images.numpy())
        if self._delivery.on_device:
            return Batch(images, targets, crops)
        return Batch(self._render(images, crops), targets)

    def _decode(self, indices: np.ndarray, augmentation: Augmentation) -> Tensor:
        size = self._delivery.size
        out = self._buffer(len(indices), size, size)
        pixels = out.numpy()
        for first in range(0, len(indices), _CHUNK):
            chunk = indices[first : first + _CHUNK]
            images = [decode_rgb(self._shards.read_bytes(int(index))) for index in chunk]
            heights, widths = np.array([image.shape[:2] for image in images]).T
            crops = augmentation.crops(self._ids[chunk], heights, widths)
            targets = pixels[first : first + len(chunk)]
            for image, box, flip, target in zip(images, crops.boxes.tolist(), crops.flips, targets, strict=True):
                render_image(image, box, flip, target)
        return out

    def _render(self, images: Tensor, crops: Crops) -> Tensor:
        size = self._delivery.size
        count, height, width, _ = images.shape
        if (height, width) == (size, size) and crops.leave_whole(height, width):
            return images
        out = self._buffer(count, size, size)
        pairs = zip(images.numpy(), crops.boxes.tolist(), crops.flips, out.numpy(), strict=True)
        for image, box, flip, target in pairs:
            render_image(image, box, flip, target)
        return out

    def _buffer(self, count: int, height: int, width: int) -> Tensor:
        return torch.empty((count, height, width, 3), dtype=torch.uint8, pin_memory=self._delivery.pinned)


def _wait(future: Future[Batch]) -> Batch:
    try:
        return future.result(_DEADLINE)
    except TimeoutError:
        raise DataError(
            f"a batch was not read within {_DEADLINE:.0f} s; the storage of the data seems stuck."
        ) from None
