"""Keys that do something only in company: given alone they would be ignored, so they are refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hpo.errors import UsageError
from hpo.space import Choice, Space
from hpo.trialconfig import default_value
from hpo.trialkeys import SECTIONS

_Need = tuple[str, Callable[[Any], bool], str]  # the other key, the values of it that will do, the remedy


def _one_of(*words: Any) -> Callable[[Any], bool]:
    return lambda value: value in words


_LORA: _Need = ("optim.peft", lambda v: str(v).startswith("lora"), "set optim.peft to lora, lora_bias or lora_norm")
_FOCAL: _Need = ("optim.loss_func", _one_of("focal_loss"), "set optim.loss_func: focal_loss")
_MIXUP: _Need = ("data.mixup.turn_on", _one_of(True), "set data.mixup.turn_on: true")
_ERASING: _Need = ("data.random_erasing.prob", bool, "set data.random_erasing.prob above 0")
_WHOLE_SECTIONS = {
    "optim.lora": _LORA,
    "optim.focal_loss": _FOCAL,
    "data.mixup": _MIXUP,
    "data.random_erasing": _ERASING,
}
NEEDS: dict[str, _Need] = {
    **{
        f"{prefix}.{name}": need
        for prefix, need in _WHOLE_SECTIONS.items()
        for name in (field.name for field in dataclasses.fields(SECTIONS[prefix][1]))
        if f"{prefix}.{name}" != need[0]
    },
    "optim.ema_warmup": ("optim.ema_decay", bool, "set optim.ema_decay, for example 0.999"),
    "optim.extra_trainable_params": ("optim.peft", bool, "set optim.peft, without which everything is trained anyway"),
    "optim.end_lr": ("optim.lr_schedule", lambda v: v != "constant", "choose cosine_decay or linear_decay"),
    "optim.gradient_clip_algorithm": ("optim.gradient_clip_val", bool, "set optim.gradient_clip_val above 0"),
    "model.timm_image.crop_scale": (
        "model.timm_image.train_transforms",
        lambda words: "random_resized_crop" in words,
        "put random_resized_crop into train_transforms",
    ),
}


def is_certain(space: Space, key: str) -> bool:
    """Whether every configuration has `key`: fixed, or with a domain for each value of the one other it depends on."""
    if key in space.constants:
        return True
    mine = [dimension for dimension in space.dimensions if dimension.key == key]
    if not mine or any(not dimension.when for dimension in mine):
        return bool(mine)
    others = {other for dimension in mine for other in dimension.when}
    other = others.pop()
    if others or not is_certain(space, other):
        return False
    held = [value for dimension in mine for value in dimension.when[other]]
    above = [dimension.domain for dimension in space.dimensions if dimension.key == other]
    possible = [o for d in above if isinstance(d, Choice) for o in d.options] or [space.constants.get(other)]
    return all(isinstance(domain, Choice) for domain in above) and all(o in held for o in possible)


def possible_values(space: Space, key: str) -> list[Any]:
    """What `key` can be, as far as it is finite; of a range its two ends."""
    values: list[Any] = [space.constants[key]] if key in space.constants else []
    for dimension in space.dimensions:
        if dimension.key == key:
            domain = dimension.domain
            values += domain.options if isinstance(domain, Choice) else [domain.low, domain.high]
    return values if is_certain(space, key) else [*values, default_value(key)]


def check_company(space: Space) -> None:
    """Refuses keys that can do nothing in any trial of `space`; a value that is the default anyway may stand.

    Raises:
        UsageError: there is one.
    """
    given = {key for key, value in space.constants.items() if value != default_value(key)}
    for key in [*given, *(dimension.key for dimension in space.dimensions)]:
        if key not in NEEDS:
            continue
        other, will_do, remedy = NEEDS[key]
        values = possible_values(space, other)
        if not any(will_do(value) for value in values):
            shown = " or ".join(str(value) for value in values)
            raise UsageError(f"{key} does nothing while {other} is {shown}; {remedy}, or leave it out.")
