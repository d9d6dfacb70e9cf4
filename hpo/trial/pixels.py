"""The pixels of a batch: read, decoded, cropped and resized on the host, as far as they are not left to the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hpo.data.decode import Scratch, decode_into
from hpo.errors import DataError
from hpo.trial.augment import Augmentation, Crops
from hpo.trial.buffers import Buffers
from hpo.trial.middle import Middle
from hpo.trial.render import render_image

if TYPE_CHECKING:
    from hpo.data.blockwise import Blockwise
    from hpo.data.decoded import Decoded
    from hpo.data.pictures import Pictures
    from hpo.data.shards import ShardSet

_TOGETHER = 32  # images whose stored bytes are read at once
_AT_A_TIME = 16 * 2**20  # bytes of pixels of images that are held before they are cropped


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


class Pixels:
    """Images of `shards` by number, as `delivery` wants them. Threads may ask at the same time."""

    def __init__(
        self,
        shards: ShardSet | Pictures,
        delivery: Delivery,
        decoded: Decoded | None = None,
        blocks: Blockwise | None = None,
    ) -> None:
        """`decoded`: all pixels of the images, where the node has them; `blocks`: by which stored bytes are read."""
        self._shards, self._delivery, self._decoded = shards, delivery, decoded
        self._reader: ShardSet | Pictures | Blockwise = blocks or shards
        self._ids = np.asarray(shards.sample_ids)
        self._buffers, self._scratch = Buffers(delivery.pinned), Scratch()

    def rest(self) -> None:
        """Gives back the memory of batches until the next is asked for."""
        self._buffers.forget()

    def training(self, indices: np.ndarray, augmentation: Augmentation) -> tuple[Tensor, Crops | None]:
        """Pixels, and what is still to be done with them on the device."""
        samples = self._ids[indices]
        if not self._shards.sized:
            return _finish(self._decode_unsized(indices, augmentation), samples, augmentation), None
        crops = augmentation.crops(samples, self._shards.heights[indices], self._shards.widths[indices])
        if self._shards.image_shape is None:
            return _finish(self._decode(indices, crops), samples, augmentation), None
        images = self._gather(indices)
        if self._delivery.on_device:
            return images, crops
        return _finish(self._render(images, crops), samples, augmentation), None

    def middles(self, indices: np.ndarray, middle: Middle) -> Tensor:
        """What evaluation sees, from all pixels there are: no shortcuts, so that timm alone sees the same."""
        out = self._buffers.take(len(indices), self._delivery.size, self._delivery.size, 3)
        raw = self._shards.image_shape is not None
        images = self._gather(indices).numpy() if raw else self._whole(indices)
        for image, target in zip(images, out.numpy(), strict=True):
            middle.render(image, target)
        return out

    def _gather(self, indices: np.ndarray) -> Tensor:
        images = self._buffers.take(len(indices), *(self._shards.image_shape or ()))
        if self._decoded:
            self._decoded.gather(indices, images.numpy())
        else:
            self._reader.gather(indices, images.numpy())
        return images

    def _decode(self, indices: np.ndarray, crops: Crops) -> Tensor:
        """Decodes no more pixels than a box needs: at half the size or less where it is so much too large. What
        is decoded already serves the other boxes only, so that a trial sees the same with it and without."""
        size = self._delivery.size
        out = self._buffers.take(len(indices), size, size, 3)
        # Small boxes first: who shrinks and who enlarges runs other code, which stays in the cache while it is needed.
        order = np.argsort(crops.boxes[:, 2:].max(axis=1), kind="stable")
        indices, boxes = indices[order], crops.boxes[order]
        large = (boxes[:, 2] >= 2 * size) & (boxes[:, 3] >= 2 * size)
        stored = self._stored(indices[large] if self._decoded else indices)
        looks = zip(order.tolist(), boxes.tolist(), crops.flips[order].tolist(), large.tolist(), strict=True)
        targets = out.numpy()
        for (index, shape), (place, box, flip, scaled) in zip(self._sized(indices), looks, strict=True):
            if self._decoded and not scaled:
                image = self._decoded.pixels(index)
            elif not scaled:
                image = self._decode_bytes(index, next(stored), shape)
            else:
                image, box = self._decode_small(index, next(stored), shape, box)
            render_image(image, box, flip, targets[place], self._delivery.interpolation)
        return out

    def _sized(self, indices: np.ndarray) -> Iterator[tuple[int, tuple[int, int]]]:
        """Each number with (height, width) of its image."""
        shapes = zip(self._shards.heights[indices].tolist(), self._shards.widths[indices].tolist(), strict=True)
        return zip(indices.tolist(), shapes, strict=True)

    def _stored(self, indices: np.ndarray) -> Iterator[bytes]:
        """Stored bytes, some images at a time."""
        for first in range(0, len(indices), _TOGETHER):
            yield from self._reader.read_many(indices[first : first + _TOGETHER])

    def _whole(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """All pixels of each, good until the next."""
        if self._decoded:
            yield from map(self._decoded.pixels, indices.tolist())
        elif not self._shards.sized:
            yield from map(self._shards.pixels, indices.tolist())
        else:
            for (index, shape), data in zip(self._sized(indices), self._stored(indices), strict=True):
                yield self._decode_bytes(index, data, shape)

    def _decode_small(
        self, index: int, data: bytes, shape: tuple[int, int], box: list[int]
    ) -> tuple[np.ndarray, list[int]]:
        """A smaller image that has enough pixels for its box, and the box in it."""
        top, left, height, width = box
        size = self._delivery.size
        at_least = -(-shape[0] * size // height), -(-shape[1] * size // width)
        image = self._decode_bytes(index, data, shape, at_least)
        if image.shape[:2] != shape:
            down, across = image.shape[0] / shape[0], image.shape[1] / shape[1]
            top, height = _scale(top, height, down)
            left, width = _scale(left, width, across)
        return image, [top, left, height, width]

    def _decode_bytes(
        self, index: int, data: bytes, shape: tuple[int, int], at_least: tuple[int, int] | None = None
    ) -> np.ndarray:
        """An encoded image of `shape` (height, width), or a smaller one of at least so many rows and columns."""
        try:
            return decode_into(self._scratch, data, shape, at_least)
        except DataError as error:
            raise DataError(f"{self._shards.name(index)} cannot be decoded: {error}") from None

    def _decode_unsized(self, indices: np.ndarray, augmentation: Augmentation) -> Tensor:
        """As `_decode`, of images that tell their size only when they are read: some at a time, to draw their crops."""
        out = self._buffers.take(len(indices), self._delivery.size, self._delivery.size, 3)
        images, held = list[np.ndarray](), 0
        for place, index in enumerate(indices.tolist(), 1):
            images.append(self._shards.pixels(index))
            held += images[-1].nbytes
            if place == len(indices) or held > _AT_A_TIME:
                first = place - len(images)
                heights, widths = np.array([image.shape[:2] for image in images]).T
                crops = augmentation.crops(self._ids[indices[first:place]], heights, widths)
                targets = out.numpy()[first:place]
                for image, box, flip, target in zip(images, crops.boxes, crops.flips, targets, strict=True):
                    render_image(image, box.tolist(), flip, target, self._delivery.interpolation)
                images, held = [], 0
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


def _finish(images: Tensor, samples: np.ndarray, augmentation: Augmentation) -> Tensor:
    """The rendered images after the policies of training, in place."""
    if augmentation.policies:
        augmentation.policies.apply(images.numpy(), samples, augmentation.seed, augmentation.epoch)
    return images
