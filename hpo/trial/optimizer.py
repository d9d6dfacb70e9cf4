"""The optimiser by timm's name, and the learning rate as a function of the update."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from torch import nn
from torch.optim import Optimizer

from hpo.errors import TrialError, nearest
from hpo.trialconfig import OptimConfig


def create_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """timm's optimiser over the parameters of `model`, weight decay spared norms and biases.

    `lr_decay` below 1 scales each layer's learning rate by its power (Bao et al., BEiT, 2021).

    Raises:
        TrialError: timm has no such optimiser, or it cannot run here.
    """
    name = config.optim_type.lower()
    known = [str(name) for name in list_optimizers()]
    if name not in known:
        raise TrialError(f"optim.optim_type: timm has no optimiser {config.optim_type!r}.{nearest(name, known)}")
    options: dict[str, Any] = {}
    if config.momentum == 0 and "nesterov" in _defaults(name):
        options["nesterov"] = False  # torch refuses Nesterov's look-ahead without momentum
    try:
        return create_optimizer_v2(
            model,
            opt=name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.lr_decay if config.lr_decay != 1 else None,
            **options,
        )
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrialError(f"optim.optim_type {name!r} cannot be used here ({reason}); choose another.") from error


def _defaults(name: str) -> dict[str, Any]:
    try:
        return dict(getattr(get_optimizer_class(name), "keywords", {}))
    except (AssertionError, ImportError):  # told by create_optimizer_v2
        return {}


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(config: OptimConfig, update: int, total: int) -> float:
    """The rate of update `update` of `total`, counted from 0: a linear warm-up to the peak, then the schedule to 0."""
    share = config.warmup_steps
    warmup = min(total, round(share * total) if share < 1 else int(share))
    if update < warmup:
        return config.lr * (update + 1) / warmup
    progress = (update - warmup) / max(1, total - warmup)
    if config.lr_schedule == "cosine_decay":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if config.lr_schedule == "linear_decay":
        return config.lr * (1 - progress)
    return config.lr
