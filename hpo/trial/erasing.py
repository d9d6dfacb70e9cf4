"""Random erasing (Zhong et al. 2017, arXiv 1708.04896), with timm's rectangles and fillings, on normalised images.

What is erased of an image follows from seed, epoch and sample alone, so that the pieces of a batch do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpo.trial.randomness import derive, uniforms
from hpo.trialkeys import ErasingConfig

_PURPOSE = 7  # tells these numbers from those of weights, order, boxes, dropout, mixing and policies
_SMALLEST = 0.02  # share of the image
_LOG_RATIO = math.log(1 / 0.3)
_TRIES = 10

Rectangle = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Erasing:
    """The erasing of one epoch."""

    config: ErasingConfig
    seed: int
    epoch: int

    def apply(self, images: Tensor, samples: np.ndarray) -> None:
        """Changes `images`, float (B, C, H, W) with mean 0 and deviation 1, with the ids `samples`, in place."""
        chances = uniforms(derive(self.seed, _PURPOSE), self.epoch, samples, 1)[:, 0]
        for place in np.flatnonzero(chances < self.config.prob).tolist():
            seed = derive(self.seed, self.epoch, int(samples[place]), _PURPOSE)
            noise = torch.Generator(images.device).manual_seed(seed)
            for rectangle in self.rectangles(seed, *images.shape[2:]):
                self._fill(images[place], rectangle, noise)

    def rectangles(self, seed: int, height: int, width: int) -> Iterator[Rectangle]:
        """Those of one image; one that does not fit in ten tries is left out."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        count = int(rng.integers(1, self.config.count, endpoint=True))
        for _ in range(count):
            for _ in range(_TRIES):
                area = rng.uniform(_SMALLEST, self.config.max_area) * height * width / count
                ratio = math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
                h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if 0 < h < height and 0 < w < width:
                    top, left = (int(rng.integers(room, endpoint=True)) for room in (height - h, width - w))
                    yield top, left, h, w
                    break

    def _fill(self, image: Tensor, rectangle: Rectangle, noise: torch.Generator) -> None:
        top, left, height, width = rectangle
        part = image[:, top : top + height, left : left + width]
        if self.config.mode == "const":
            part.zero_()
            return
        shape = part.shape if self.config.mode == "pixel" else (len(image), 1, 1)
        part.copy_(torch.randn(shape, generator=noise, device=image.device).expand(part.shape))
