"""Builds models without memory or time for their weights, on torch's meta device, and says what came out.

python -m hpo.check.build < QUESTION.json      # one JSON line an answer: where weights are, then case by case

A process of its own: importing torch takes seconds, which the commands of the login node do without.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hpo.errors import SlurmtuneError, TrialError
from hpo.trial.freezing import freeze
from hpo.trial.model import create_backbone, image_size_of
from hpo.trial.optimizer import create_optimizer
from hpo.trialconfig import TrialConfig
from hpo.trialkeys import ModelConfig

Answer = dict[str, Any]

_built: dict[str, nn.Module] = {}


def main() -> int:
    logging.disable(logging.WARNING)
    question = json.load(sys.stdin)
    for answer in itertools.chain([{"weights": find_weights(question["weights"])}], answers(question)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


def find_weights(models: Sequence[str]) -> Answer:
    """See hpo.trial.fetch.find_cached; the client of the hub is imported for who asks only."""
    if not models:
        return {}
    from hpo.trial.fetch import find_cached

    return dict(find_cached(models))


def answers(question: Mapping[str, Any]) -> Iterator[Answer]:
    """One for each of question['cases']: parameters and image size, or the error."""
    for case in question["cases"]:
        try:
            yield build(TrialConfig.from_flat(case), question["outputs"], question["side"], question["has_table"])
        except SlurmtuneError as error:
            yield {"error": str(error)}
        except Exception as error:  # a bug of timm's in this one model: the trial would end with it too
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            name = case["model.timm_image.checkpoint_name"]
            yield {"error": f"{name} cannot be built ({type(error).__name__}: {first})."}


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


def _build(config: ModelConfig, outputs: int, size: int) -> nn.Module:
    try:
        with torch.device("meta"):
            return create_backbone(config, outputs, size, with_weights=False)[0]
    except (TrialError, RuntimeError) as error:
        if "meta" not in str(error).lower():
            raise
    return create_backbone(config, outputs, size, with_weights=False)[0]


if __name__ == "__main__":
    raise SystemExit(main())
