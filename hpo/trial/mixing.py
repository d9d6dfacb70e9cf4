"""Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899).

Each image of a batch is mixed with the one at the same place from its end. What is drawn follows from seed and update
alone, like all randomness of a trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hpo.trial.randomness import derive
from hpo.trialkeys import MixupConfig

_PURPOSE = 5  # tells these numbers from those of weights, order, augmentation and dropout


@dataclass(frozen=True)
class Mixing:
    """`share` of the image itself, in pixels and in the loss. `box` (top, left, bottom, right) is what the partner
    gives; None: all of both, weighted."""

    share: float
    box: tuple[int, int, int, int] | None = None

    def apply(self, images: Tensor, partners: Tensor) -> Tensor:
        """Both (B, C, H, W), neither of them changed."""
        if self.box is None:
            return images * self.share + partners * (1 - self.share)
        top, left, bottom, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed


def draw_mixing(config: MixupConfig, size: int, seed: int, epoch: int, update: int) -> Mixing | None:
    """How the batch of `update` is mixed, images of `size` pixels a side; None: not at all."""
    over = config.turn_off_epoch is not None and epoch > config.turn_off_epoch
    if not config.turn_on or over or not (config.mixup_alpha or config.cutmix_alpha):
        return None
    rng = np.random.Generator(np.random.Philox(key=derive(seed, update, _PURPOSE)))
    chance, choice = rng.random(2)
    if chance >= config.prob:
        return None
    cuts = bool(config.cutmix_alpha) and (not config.mixup_alpha or choice < config.switch_prob)
    alpha = config.cutmix_alpha if cuts else config.mixup_alpha
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mixing(share)
    side = size * math.sqrt(1 - share)
    middle = rng.random(2) * size
    top, left = (max(0, round(m - side / 2)) for m in middle)
    bottom, right = (min(size, round(m + side / 2)) for m in middle)
    return Mixing(1 - (bottom - top) * (right - left) / size**2, (top, left, bottom, right))
