"""What evaluation sees of an image: the pixels of timm's own evaluation transform, so that an exported model is as good
with timm alone as the trial said, to the last image.

timm (timm.data.transforms_factory.transforms_imagenet_eval, by torchvision's Resize and CenterCrop) scales the whole
image until its shorter side is floor(S / crop_pct) pixels long, or when squeezing until both are, and cuts S x S pixels
out of the middle. The order matters: cutting first moves the picture by up to half a pixel. Pillow does the scaling
here as there; the faster kernels that training uses differ from it by up to 3 of 255 here and there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from hpo.trialkeys import ModelConfig

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Middle:
    """squeezes: the whole image becomes a square; else its shorter side counts. crop_pct: share of each side of the
    scaled square that is seen. interpolation: bilinear or bicubic."""

    squeezes: bool
    crop_pct: float
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, config: ModelConfig, interpolation: str) -> Middle:
        """As the transforms of training make an image square: the first of them that does so without chance."""
        squaring = [name for name in config.train_transforms if name in ("resize", "center_crop")]
        return cls(squaring[:1] == ["resize"], config.crop_pct, interpolation)

    def render(self, image: np.ndarray, out: np.ndarray) -> None:
        """Writes what is seen of `image`, uint8 (H, W, 3), into `out`, uint8 (S, S, 3), C-contiguous."""
        size = out.shape[0]
        height, width = self.scaled(image.shape[0], image.shape[1], size)
        if image.shape[:2] != (height, width):
            image = np.asarray(Image.fromarray(image).resize((width, height), _FILTERS[self.interpolation]))
        top, left = (round((side - size) / 2) for side in (height, width))  # a half goes to the even pixel
        np.copyto(out, image[top : top + size, left : left + size])

    def scaled(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Height and width to which the whole image is scaled before `size` pixels are cut out of its middle."""
        side = math.floor(size / self.crop_pct)
        if self.squeezes:
            return side, side
        if width <= height:
            return int(side * height / width), side
        return side, int(side * width / height)
