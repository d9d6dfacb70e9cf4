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

from hpo.data.decode import Scratch, decode_into
from hpo.data.pictures import Pictures
from hpo.errors import DataError
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.buffers import Buffers
from hpo.trial.middle import Middle
from hpo.trial.order import EpochPlan
from hpo.trial.render import render_image
from hpo.trial.rows import Rows, RowTable

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_DEADLINE = 900.0  # seconds for one batch; storage that takes longer is stuck


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, H, W, 3) on the host, rendered already unless `crops` says what is to be done on the device.

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

    def part(self, first: int, last: int) -> Batch:
        places = self.rows.images_of(first, last) if self.rows else slice(first, last)
        crops = self.crops and Crops(self.crops.boxes[places], self.crops.flips[places])
        rows = self.rows and self.rows.part(first, last)
        return Batch(self.images[places], self.targets[first:last], self.samples[places], crops, rows)

    def opposite(self, first: int, last: int) -> Batch:
        """The part that lies as far from the end as `part(first, last)` from the start; its own order is not turned."""
        return self.part(max(0, len(self) - last), len(self) - first)


@dataclass(frozen=True)
class Delivery:
    """How batches are to arrive: the side of rendered images, where raw ones are rendered, and in what memory.

    Of `world` ranks each takes every world-th sample of each batch.
    """

    size: int
    on_device: bool  # raw images are cropped and resized on the device
    pinned: bool  # in page-locked memory, from which a GPU copies without waiting
    rank: int = 0
    world: int = 1
    interpolation: str = "bilinear"


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
    ) -> None:
        """`with_images` False: of a table's rows no images are read."""
        self._targets, self._delivery = targets, delivery
        self._workers, self._count = workers, len(shards)
        self._shards: ShardSet | Pictures = Pictures(shards) if shards.columns else shards
        self._table = RowTable(shards, self._shards, with_images) if isinstance(self._shards, Pictures) else None
        self._plan = EpochPlan(len(shards), batch_size)
        self._ids = np.asarray(self._shards.sample_ids)
        self._buffers, self._scratch = Buffers(delivery.pinned), Scratch()
        cv2.setNumThreads(1)  # these threads are the parallelism; OpenCV would start its own in each
        self._pool = _start_threads(max(1, workers))

    def __len__(self) -> int:
        """Batches of a training epoch."""
        return len(self._plan)

    @property
    def images_an_update(self) -> int:
        """Of all ranks together."""
        return min(self._plan.batch_size, self._count)

    def training(self, augmentation: Augmentation, first: int = 0) -> Iterator[Batch]:
        """A shuffled epoch of whole batches, from batch number `first` on."""
        plan, place = self._plan, (self._delivery.rank, self._delivery.world)
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
        self._buffers.forget()

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
            (self._middles(indices, look), None) if isinstance(look, Middle) else self._images(indices, look)
        )
        return Batch(images, targets, self._ids[indices], crops, rows)

    def _images(self, indices: np.ndarray, augmentation: Augmentation) -> tuple[Tensor, Crops | None]:
        """Pixels, and what is still to be done with them on the device."""
        samples = self._ids[indices]
        crops = augmentation.crops(samples, self._shards.heights[indices], self._shards.widths[indices])
        if self._shards.image_shape is None:
            return _finish(self._decode(indices, crops), samples, augmentation), None
        images = self._buffers.take(len(indices), *self._shards.image_shape)
        self._shards.gather(indices, images.numpy())
        if self._delivery.on_device:
            return images, crops
        return _finish(self._render(images, crops), samples, augmentation), None

    def _decode(self, indices: np.ndarray, crops: Crops) -> Tensor:
        out = self._buffers.take(len(indices), self._delivery.size, self._delivery.size, 3)
        for index, box, flip, target in zip(indices.tolist(), crops.boxes, crops.flips, out.numpy(), strict=True):
            self._decode_one(index, box, flip, target)
        return out

    def _decode_one(self, index: int, box: np.ndarray, flip: bool, out: np.ndarray) -> None:
        """Decodes no more pixels than the box needs: at half the size or less where it is so much too large."""
        shape = int(self._shards.heights[index]), int(self._shards.widths[index])
        top, left, height, width = box.tolist()
        size, at_least = out.shape[0], None
        if height >= 2 * size and width >= 2 * size:
            at_least = -(-shape[0] * size // height), -(-shape[1] * size // width)
        image = self._read(index, at_least)
        if image.shape[:2] != shape:
            down, across = image.shape[0] / shape[0], image.shape[1] / shape[1]
            top, height = _scale(top, height, down)
            left, width = _scale(left, width, across)
        render_image(image, (top, left, height, width), flip, out, self._delivery.interpolation)

    def _read(self, index: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """An encoded image, or a smaller one of at least so many rows and columns."""
        shape = int(self._shards.heights[index]), int(self._shards.widths[index])
        try:
            return decode_into(self._scratch, self._shards.read_bytes(index), shape, at_least)
        except DataError as error:
            raise DataError(f"{self._shards.name(index)} cannot be decoded: {error}") from None

    def _middles(self, indices: np.ndarray, middle: Middle) -> Tensor:
        """What evaluation sees, from all pixels there are: no shortcuts, so that timm alone sees the same."""
        size, shape = self._delivery.size, self._shards.image_shape
        out = self._buffers.take(len(indices), size, size, 3)
        if shape is None:
            for index, target in zip(indices.tolist(), out.numpy(), strict=True):
                middle.render(self._read(index), target)
            return out
        images = self._buffers.take(len(indices), *shape)
        self._shards.gather(indices, images.numpy())
        for image, target in zip(images.numpy(), out.numpy(), strict=True):
            middle.render(image, target)
        return out

    def _render(self, images: Tensor, crops: Crops) -> Tensor:
        size = self._delivery.size
        count, height, width, _ = images.shape
        if (height, width) == (size, size) and crops.leave_whole(height, width):
            return images
        out = self._buffers.take(count, size, size, 3)
        pairs = zip(images.numpy(), crops.boxes.tolist(), crops.flips, out.numpy(), strict=True)
        for image, box, flip, target in pairs:
            render_image(image, box, flip, target, self._delivery.interpolation)
        return out


def _scale(start: int, length: int, factor: float) -> tuple[int, int]:
    first = round(start * factor)
    return first, max(1, round((start + length) * factor) - first)


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


def _finish(images: Tensor, samples: np.ndarray, augmentation: Augmentation) -> Tensor:
    """The rendered images after the policies of training, in place."""
    if augmentation.policies:
        augmentation.policies.apply(images.numpy(), samples, augmentation.seed, augmentation.epoch)
    return images


def _wait(future: Future[Batch]) -> Batch:
    try:
        return future.result(_DEADLINE)
    except TimeoutError:
        raise DataError(
            f"a batch was not read within {_DEADLINE:.0f} s; the storage of the data seems stuck."
        ) from None
