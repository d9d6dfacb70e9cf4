"""Which part of each image a model sees, and whether mirrored, in numbers; hpo.trial.render carries it out.

Every transform maps a box to a box, so that a list of them costs one resampling of the pixels:
    resize                  the whole image, squeezed to a square
    resize_shorter_side     nothing by itself: a box is resized when it is shown
    center_crop             the largest square in the middle
    random_resized_crop     a part of random area and aspect ratio (Szegedy et al., 2015), at least `crop_scale` of it
    random_crop             shifted by at most an eighth of its side, the border mirrored: 4 pixels at 32
    random_horizontal_flip  mirrored in every second case
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpo.transforms import split_transforms
from hpo.trial.randomness import uniforms

if TYPE_CHECKING:
    from hpo.trial.policies import Policies
    from hpo.trialkeys import ModelConfig

_COLUMNS = 4  # random numbers that a transform may use
_SHIFT = 1 / 8
_LOG_RATIO = math.log(4 / 3)
_SQUARING = ("resize", "center_crop", "random_resized_crop")

Box = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # top, left, height, width: float64 (samples,)


@dataclass(frozen=True)
class Crops:
    """For each of B images the box to show, in whole pixels of the source, and whether to mirror it.

    boxes: int64 (B, 4), top, left, height, width; a box may reach beyond its image. flips: bool (B,).
    """

    boxes: np.ndarray
    flips: np.ndarray

    def leave_whole(self, height: int, width: int) -> bool:
        """Whether every image of this size is shown as it is."""
        return not self.flips.any() and bool((self.boxes == (0, 0, height, width)).all())


@dataclass(frozen=True)
class Augmentation:
    """The boxes of one trial's epoch, counted from 0. policies: what comes after the boxes."""

    transforms: tuple[str, ...]
    crop_scale: float
    seed: int
    epoch: int = 0
    policies: Policies | None = None

    @classmethod
    def of(cls, config: ModelConfig, seed: int, policies: Policies | None = None) -> Augmentation:
        boxes, _ = split_transforms(config.train_transforms)
        return cls(boxes, config.crop_scale, seed, policies=policies)

    def at(self, epoch: int) -> Augmentation:
        return replace(self, epoch=epoch)

    def crops(self, sample_ids: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> Crops:
        """Boxes for images of these sizes; a function of the arguments alone."""
        names = self._applied()
        box: Box = (np.zeros(len(heights)), np.zeros(len(heights)), heights.astype(float), widths.astype(float))
        flips = np.zeros(len(heights), bool)
        random = uniforms(self.seed, self.epoch, sample_ids, _COLUMNS * len(names))
        for place, name in enumerate(names):
            numbers = random[:, _COLUMNS * place : _COLUMNS * (place + 1)]
            if name == "random_horizontal_flip":
                flips ^= numbers[:, 0] < 0.5
            elif name == "random_resized_crop":
                box = _random_resized_crop(box, numbers, self.crop_scale)
            else:
                box = _BOXES[name](box, numbers)
        return Crops(_whole_pixels(box), flips)

    def _applied(self) -> tuple[str, ...]:
        """The middle square comes first where none of the transforms says how an image becomes square."""
        names = self.transforms
        return names if any(name in _SQUARING for name in names) else ("center_crop", *names)


def _resize(box: Box, numbers: np.ndarray) -> Box:
    return box


def _middle(box: Box, share: float) -> Box:
    top, left, height, width = box
    return top + height * (1 - share) / 2, left + width * (1 - share) / 2, height * share, width * share


def _center_crop(box: Box, numbers: np.ndarray) -> Box:
    top, left, height, width = box
    side = np.minimum(height, width)
    return top + (height - side) / 2, left + (width - side) / 2, side, side


def _random_crop(box: Box, numbers: np.ndarray) -> Box:
    top, left, height, width = box
    down, right = ((2 * numbers[:, column] - 1) * _SHIFT for column in (0, 1))
    return top + np.round(down * height), left + np.round(right * width), height, width


def _random_resized_crop(box: Box, numbers: np.ndarray, smallest: float) -> Box:
    """Aspect ratios from 3/4 to 4/3, drawn among those that fit, where torchvision draws again until one fits."""
    top, left, height, width = box
    area = (smallest + (1 - smallest) * numbers[:, 0]) * height * width
    low = np.maximum(-_LOG_RATIO, np.log(area / height**2))
    high = np.minimum(_LOG_RATIO, np.log(width**2 / area))
    ratio = np.exp(np.clip(low + (high - low) * numbers[:, 1], np.log(area / height**2), np.log(width**2 / area)))
    new_width, new_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    down, right = numbers[:, 2] * (height - new_height), numbers[:, 3] * (width - new_width)
    return top + down, left + right, new_height, new_width


_BOXES: dict[str, Callable[[Box, np.ndarray], Box]] = {
    "resize": _resize,
    "resize_shorter_side": _resize,
    "center_crop": _center_crop,
    "random_crop": _random_crop,
}


def _whole_pixels(box: Box) -> np.ndarray:
    top, left, height, width = box
    first_row, first_column = np.round(top), np.round(left)
    rows = np.maximum(np.round(top + height) - first_row, 1)
    columns = np.maximum(np.round(left + width) - first_column, 1)
    return np.stack([first_row, first_column, rows, columns], axis=1).astype(np.int64)
