"""From pixels to a model's input: crop, resize, mirror, normalise; on the host image by image, on a GPU all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from hpo.trial.augment import Crops

if TYPE_CHECKING:
    from hpo.trial.model import Input

Kernel = Callable[[Tensor], Tensor]  # distance in steps -> weight

_RESAMPLE = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
}
_UNSEEN = 1.25  # shrinking by so little aliases less than the eye or a model sees: 0.8 of 255 on photographs


def render_image(
    image: np.ndarray, box: Sequence[int], flip: bool, out: np.ndarray, interpolation: str = "bilinear"
) -> None:
    """Writes the box of `image`, uint8 (H, W, 3), into `out`, uint8 (S, S, 3), C-contiguous.

    `interpolation` is bilinear or bicubic. Shrinking widens the filter, as Pillow does, so that edges do not flicker:
    torch's kernel gives Pillow's pixels in a quarter of its time, and OpenCV's, without that filter, is faster still
    where it is not needed.
    """
    top, left, height, width = box
    if top >= 0 and left >= 0 and top + height <= image.shape[0] and left + width <= image.shape[1]:
        part = image[top : top + height, left : left + width]
    else:
        rows = _mirrored(np.arange(top, top + height), image.shape[0])
        columns = _mirrored(np.arange(left, left + width), image.shape[1])
        part = image[np.ix_(rows, columns)]
    size = len(out)
    if height == width == size:
        np.copyto(out, part)
    elif interpolation == "bicubic" or max(height, width) > _UNSEEN * size:
        _resample(part, out, interpolation)
    else:
        cv2.resize(part, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    if flip:
        cv2.flip(out, 1, out)


def _resample(part: np.ndarray, out: np.ndarray, interpolation: str) -> None:
    """As torch.nn.functional.interpolate with `antialias`, in a half to a third of its time: that has no `out`, and
    without one its kernel gives planes, to be woven together again."""
    source = part if part.flags.writeable else part.copy()
    pixels, target = (torch.from_numpy(image[None]).permute(0, 3, 1, 2) for image in (source, out))
    _RESAMPLE[interpolation](pixels, out.shape[:2], False, out=target)


def _mirrored(positions: np.ndarray, size: int) -> np.ndarray:
    """Positions outside 0..size-1 reflected back at the outer pixel's edge."""
    around = positions % (2 * size)
    return np.where(around < size, around, 2 * size - 1 - around)


def render_batch(images: Tensor, crops: Crops, size: int, interpolation: str = "bilinear") -> Tensor:
    """The boxes of `images`, uint8 (B, H, W, 3), as float32 (B, 3, size, size), on the images' device.

    Resampling is separable: two batched products with each image's own weights, a filter as wide as the step between
    output pixels, so that shrinking averages: a triangle, or Keys' cubic (1981, a = -0.5 as in Pillow) for 'bicubic'.
    """
    _, height, width, _ = images.shape
    boxes = _carry(crops.boxes.astype(np.float32), images.device)
    flips = _carry(crops.flips, images.device)
    kernel = _cubic if interpolation == "bicubic" else _triangle
    rows = _axis_weights(boxes[:, 0], boxes[:, 2], torch.zeros_like(flips), height, size, kernel)
    columns = _axis_weights(boxes[:, 1], boxes[:, 3], flips, width, size, kernel)
    half = torch.bmm(rows, images.float().flatten(2)).unflatten(2, (width, 3))
    return torch.einsum("bqw,bpwc->bcpq", columns, half).clamp_(0, 255)  # a cubic overshoots


def _carry(values: np.ndarray, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU from page-locked memory, for which nobody waits until its work so far is done."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _axis_weights(start: Tensor, length: Tensor, flips: Tensor, source: int, size: int, kernel: Kernel) -> Tensor:
    """What each source pixel of an axis gives to each output pixel, float32 (B, size, source); beyond the box nothing,
    as where it is cut out first."""
    step = (length / size)[:, None]
    centres = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * step - 0.5
    centres = torch.where(flips[:, None], centres.flip(1), centres)[:, :, None]
    reach = step.clamp(min=1.0)[:, :, None]
    pixels = torch.arange(source, device=start.device, dtype=torch.float32)
    first, end = start[:, None, None], (start + length)[:, None, None]
    weights = torch.zeros_like(centres * pixels)
    for places in (pixels, -1 - pixels, 2 * source - 1 - pixels):  # each pixel, and its mirror images at either border
        weights += kernel((centres - places).abs() / reach) * ((places >= first) & (places < end))
    return weights / weights.sum(2, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


class Normaliser:
    """Pixels to a model's input: (pixel / 255 - mean) / std, in the layout that the model wants."""

    def __init__(self, feed: Input, device: torch.device, layout: torch.memory_format) -> None:
        self._shift = torch.tensor(feed.mean, device=device).mul_(255).view(1, 3, 1, 1)
        self._scale = torch.tensor(feed.std, device=device).mul_(255).reciprocal_().view(1, 3, 1, 1)
        self._layout = layout

    def __call__(self, pixels: Tensor) -> Tensor:
        """float32 (B, 3, H, W) from uint8 or float pixels (B, 3, H, W), which may be overwritten."""
        return pixels.float().sub_(self._shift).mul_(self._scale).contiguous(memory_format=self._layout)
