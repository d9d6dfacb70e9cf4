"""Builds models without memory or time for their weights, on torch's meta device, and says what came out.

In a process of its own, hpo.check.builder: importing torch takes seconds, which the commands of the login node do
without.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hpo.errors import SlurmtuneError, TrialError
from hpo.trial.freezing import freeze
from hpo.trial.model import create_backbone, image_size_of
from hpo.trial.optimizer import create_optimizer
from hpo.trialconfig import TrialConfig
from hpo.trialkeys import ModelConfig

Answer = dict[str, Any]

_FILLS = ("normal_", "uniform_", "zero_", "fill_", "erfinv_", "clamp_", "mul_", "add_")  # of torch.nn.init
_built: dict[str, nn.Module] = {}


def answer_all(question: Mapping[str, Any], given: int = 0) -> Iterator[Answer]:
    """Where the weights of question['weights'] are, then for each of question['cases'] parameters and image size, or
    the error; without the first `given` of these answers."""
    if not given:
        yield {"weights": find_weights(question["weights"])}
    for case in question["cases"][max(0, given - 1) :]:
        yield answer(case, question["outputs"], question["side"], question["has_table"])


def find_weights(models: Sequence[str]) -> Answer:
    """See hpo.trial.fetch.find_cached; the client of the hub is imported for who asks only."""
    if not models:
        return {}
    from hpo.trial.fetch import find_cached

    return dict(find_cached(models))


def answer(case: Mapping[str, Any], outputs: int, side: int | None, has_table: bool) -> Answer:
    """See build; an error that is none of ours is marked as 'unexpected'."""
    try:
        return build(TrialConfig.from_flat(case), outputs, side, has_table)
    except SlurmtuneError as error:
        return {"error": str(error).replace("_rate is 0.1,", "_rate is above 0,")}  # see hpo.check.corners
    except Exception as error:  # a bug of timm's in this one model: the trial would end with it too
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = case["model.timm_image.checkpoint_name"]
        return {"error": f"{name} cannot be built ({type(error).__name__}: {first}).", "unexpected": True}


def build(config: TrialConfig, outputs: int, side: int | None, has_table: bool) -> Answer:
    """Model, frozen parameters and optimiser of one trial; `side`: of raw images, in pixels.

    Raises:
        TrialError: it cannot be trained so.
    """
    size = image_size_of(config.model, side)
    model = _on_meta(config.model, 0 if has_table else outputs, size)
    if not has_table and config.optim.peft:
        model = copy.deepcopy(model)  # adapters go into it, and others may be of the same model
        freeze(model, config)
    create_optimizer(model, config.optim)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": size,
    }


def _on_meta(config: ModelConfig, outputs: int, size: int) -> nn.Module:
    """On the meta device; the few models whose constructor looks at values are built for real. Each is built once."""
    key = json.dumps([dataclasses.asdict(config), outputs, size])
    if key not in _built:
        _built[key] = _build(config, outputs, size)
    return _built[key]


class _NoFill(TorchFunctionMode):
    """Tensors without values are not filled: torch does so in Python, for seconds in a large model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _FILLS and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _build(config: ModelConfig, outputs: int, size: int) -> nn.Module:
    try:
        with torch.device("meta"), _NoFill():
            return create_backbone(config, outputs, size, with_weights=False)[0]
    except (TrialError, RuntimeError) as error:
        if "meta" not in str(error).lower():
            raise
    return create_backbone(config, outputs, size, with_weights=False)[0]
