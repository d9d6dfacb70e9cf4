"""Which kinds of model a space can ask for, and how often: by drawing from it as the search does.

Two configurations are of one kind when nothing that decides whether they can be built tells them apart: a dropout
of 0.1 is built like one of 0.3, but not like none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.config import SweepConfig
from hpo.space import Choice, Params
from hpo.trialconfig import TrialConfig

SAMPLES = 1000

_DECISIVE = (  # keys without which two kinds cannot differ
    "model.timm_image.checkpoint_name",
    "model.timm_image.image_size",
    "model.timm_image.drop_rate",
    "model.timm_image.drop_path_rate",
    "optim.optim_type",
    "optim.momentum",
    "optim.betas",
    "optim.eps",
    "optim.lr_decay",
    "optim.lr_mult",
    "optim.peft",
    "optim.extra_trainable_params",
    "optim.lora.filter",
    "model.names",
)
Case = dict[str, Any]  # what a kind of model is built from: flat keys of hpo.trialconfig


@dataclass
class Kind:
    """One kind of model. count: of SAMPLES; values: of each choice, the options that came with it, and how often."""

    case: Case
    count: int = 0
    first: list[str] = field(default_factory=list)  # trials that are tried for certain
    values: dict[tuple[str, str], int] = field(default_factory=dict)


def find_kinds(config: SweepConfig, samples: int = SAMPLES) -> list[Kind]:
    """The kinds of `samples` configurations drawn from the space, of the default one and of a person's points; those
    that are tried for certain first, then the frequent ones."""
    kinds: dict[str, Kind] = {}
    known: dict[tuple[Any, ...], Kind] = {}  # most draws differ in what does not matter here

    def kind_of(params: Params) -> Kind:
        relevant = tuple(str(params.get(key)) for key in _DECISIVE)
        if relevant not in known:
            case = reduce_trial(config.trial(params), config.has_table)
            known[relevant] = kinds.setdefault(json.dumps(case, sort_keys=True), Kind(case))
        return known[relevant]

    kind_of(config.space.default()).first.append("trial 0, the default configuration,")
    for number, point in enumerate(config.points, start=1):
        kind_of(dict(point)).first.append(f"trial {number}, of points_to_evaluate,")
    rng = random.Random(config.seed)
    choices = {dimension.key for dimension in config.space.dimensions if isinstance(dimension.domain, Choice)}
    for _ in range(samples if config.space.dimensions else 1):
        params = config.space.sample(rng)
        kind = kind_of(params)
        kind.count += 1
        for key in choices & params.keys():
            value = (key, json.dumps(params[key]))
            kind.values[value] = kind.values.get(value, 0) + 1
    return sorted(kinds.values(), key=lambda kind: (not kind.first, -kind.count))


def reduce_trial(trial: TrialConfig, has_table: bool) -> Case:
    """What of a trial decides whether its model and optimiser can be built."""
    values = trial.to_flat(has_table)
    case: Case = {key: values[key] for key in _DECISIVE if key in values}
    for key in ("model.timm_image.drop_rate", "model.timm_image.drop_path_rate"):
        case[key] = 0.1 if case[key] else 0.0
    for key, other in (("optim.lr_decay", 0.75), ("optim.lr_mult", 2.0)):
        case[key] = 1.0 if case[key] == 1 else other
    case["optim.momentum"] = case["optim.momentum"] if case["optim.momentum"] in (0, 0.9) else 0.8
    case["optim.eps"] = None if case["optim.eps"] is None else 1e-8
    return case


def spell(case: Mapping[str, Any]) -> str:
    """The case in a person's words: the model and what is not as usual."""
    rates = [key for key in ("drop_rate", "drop_path_rate") if case[f"model.timm_image.{key}"]]
    more = [*(f"{key} > 0" for key in rates), case["optim.peft"], case["optim.optim_type"]]
    return ", ".join(filter(None, [spell_model(case), *more]))


def spell_model(case: Mapping[str, Any]) -> str:
    """'resnet18, at 96 pixels'."""
    size = case["model.timm_image.image_size"]
    return " ".join(filter(None, [case["model.timm_image.checkpoint_name"], f"at {size} pixels" if size else ""]))
