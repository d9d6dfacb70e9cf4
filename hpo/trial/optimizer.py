"""The optimiser by timm's name, and the learning rate as a function of the update."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.optim import Optimizer

from hpo.errors import TrialError, nearest
from hpo.trial.model import classifier_of
from hpo.trialkeys import OptimConfig


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
    options = _own_options(name, config)
    if config.momentum == 0 and "nesterov" in _defaults(name):
        options["nesterov"] = False  # torch refuses Nesterov's look-ahead without momentum
    if _can_be_fused(name):
        options["fused"] = True
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.lr_decay if config.lr_decay != 1 else None,
            **options,
        )
        _scale_classifier(model, optimizer, config.lr_mult)
        return optimizer
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrialError(f"optim.optim_type {name!r} cannot be used here ({reason}); choose another.") from error


def _own_options(name: str, config: OptimConfig) -> dict[str, Any]:
    """betas and eps where they are given, which not every optimiser has; momentum likewise, but for its default."""
    try:
        info = get_optimizer_info(name)
    except ValueError:  # told by create_optimizer_v2
        return {}
    usual = {field.name: field.default for field in dataclasses.fields(OptimConfig)}
    known = {"momentum": info.has_momentum, "betas": info.has_betas, "eps": info.has_eps}
    for key, has in known.items():
        value = getattr(config, key)
        if value != usual[key] and not has:
            raise TrialError(
                f"optim.{key} is {value}, but {name} has none; leave it out, or search it "
                "`when: {optim.optim_type: ...}` is one that has."
            )
    if config.betas is not None and len(config.betas) != info.num_betas:
        raise TrialError(f"optim.betas is {config.betas}, but {name} has {info.num_betas} of them.")
    return {key: value for key in ("betas", "eps") if (value := getattr(config, key)) is not None}


def _scale_classifier(model: nn.Module, optimizer: Optimizer, factor: float) -> None:
    """Multiplies the learning rate of the classifier by `factor`, in groups of its own."""
    if factor == 1:
        return
    head = {id(parameter) for parameter in classifier_of(model).parameters()}
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in head]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
            scale = group.get("lr_scale", 1.0) * factor
            optimizer.add_param_group({**group, "params": own, "lr_scale": scale})


def clip_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter], config: OptimConfig) -> None:
    """Limits the gradients as `optim.gradient_clip_algorithm` says; agc: Brock et al. 2021, arXiv 2102.06171."""
    limit = config.gradient_clip_val
    if not limit:
        return
    if config.gradient_clip_algorithm == "norm":
        accelerator.clip_grad_norm_(parameters, limit)
    elif config.gradient_clip_algorithm == "value":
        accelerator.clip_grad_value_(parameters, limit)
    else:
        accelerator.unscale_gradients()
        adaptive_clip_grad(parameters, limit)


def _can_be_fused(name: str) -> bool:
    """Whether it is one of torch's own that updates all weights by one kernel, on a CPU as on a GPU."""
    try:
        found = get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError, ValueError):  # told by create_optimizer_v2
        return False
    return "fused" in inspect.signature(found).parameters and found.__module__.startswith("torch.")


def _defaults(name: str) -> dict[str, Any]:
    try:
        return dict(getattr(get_optimizer_class(name), "keywords", {}))
    except (AssertionError, ImportError):  # told by create_optimizer_v2
        return {}


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(config: OptimConfig, update: int, total: int) -> float:
    """The rate of update `update` of `total`, counted from 0: a linear warm-up, then the schedule to `end_lr`."""
    share = config.warmup_steps
    warmup = min(total, round(share * total) if share < 1 else int(share))
    if update < warmup:
        return config.lr * (update + 1) / warmup
    progress = (update - warmup) / max(1, total - warmup)
    if config.lr_schedule == "cosine_decay":
        return config.end_lr + (config.lr - config.end_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.lr_schedule == "linear_decay":
        return config.end_lr + (config.lr - config.end_lr) * (1 - progress)
    return config.lr
