"""MODEL/ as `timm.create_model("local-dir:MODEL", pretrained=True)` opens it, with what slurmtune knows beside it.

MODEL/ config.json  model.safetensors   timm's: architecture, arguments, preprocessing, class names; the weights
       slurmtune.json                   the checkpoint's own description, and how images were stored
       README.md                        the model card
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from hpo.export.source import Weights
from hpo.layout import write_json
from hpo.trial.inference import TrainedModel
from hpo.trial.middle import Middle
from hpo.trialconfig import TrialConfig

DESCRIPTION = "slurmtune.json"
_FORMAT = 1


def load_trained(weights: Weights) -> TrainedModel:
    """The model as the trial's own code builds it, on the CPU, where two programs agree to the last digits.

    Raises:
        TrialError: weights and description do not belong together.
    """
    return TrainedModel(
        {**weights.meta, "config": {**weights.meta["config"], "env.accelerator": "cpu"}}, weights.tensors
    )


def write_model(folder: Path, weights: Weights, model: nn.Module, policy: dict[str, Any] | None) -> None:
    """Fills `folder` with all but the card."""
    meta = weights.meta
    size = int(meta["input"]["size"])
    middle = Middle.of(TrialConfig.from_flat(meta["config"]).model, meta["input"].get("interpolation", "bilinear"))
    preprocessing = {
        "input_size": [3, size, size],
        "mean": list(meta["input"]["mean"]),
        "std": list(meta["input"]["std"]),
        "crop_pct": middle.crop_pct,
        "crop_mode": "squash" if middle.squeezes else "center",
        "interpolation": middle.interpolation,
    }
    cfg = timm.get_pretrained_cfg(meta["model"], allow_unregistered=True)
    fixed = bool(cfg and cfg.fixed_input_size)  # such a model has to be told its size when it is built
    about: dict[str, Any] = {"pretrained_cfg": preprocessing}
    if meta["task"] == "classification":
        about["label_names"] = list(meta["class_names"])
    arguments = {"img_size": size} if fixed else None
    model = model.to(memory_format=torch.contiguous_format)  # as safetensors wants it
    save_for_hf(model, str(folder), model_config=about, model_args=arguments, safe_serialization=True)
    write_description(folder, weights, policy)


def write_description(folder: Path, weights: Weights, policy: dict[str, Any] | None) -> None:
    """slurmtune.json. `policy`: how the images of the training data were stored, None if that is not known."""
    meta = weights.meta
    origin = {"trial": weights.row.trial, "epoch": meta["epoch"], meta["metric"]: meta["value"]}
    write_json(folder / DESCRIPTION, {**meta, "export_format": _FORMAT, "origin": origin, "images": policy})
