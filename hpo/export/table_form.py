"""MODEL/ of a model that takes a table: timm's form holds models of images alone, so this one is ours.

MODEL/ model.safetensors   the weights, those of the timm model below `image.`
       slurmtune.json      the checkpoint's own description: architecture, columns, classes, preprocessing
       README.md           the model card

hpo.export.model.ExportedModel opens it, and so do launch/predict.py and launch/evaluate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from hpo.data.columns import TableRow
from hpo.export.check import require_same
from hpo.export.model import ExportedModel
from hpo.export.source import TableSample, Weights
from hpo.export.timm_form import write_description
from hpo.trial.inference import TrainedModel


def write_table_model(folder: Path, weights: Weights, images: dict[str, Any] | None) -> None:
    """Fills `folder` with all but the card. `images`: how they were stored, see source.image_policy."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    write_description(folder, weights, images)


def compare_reopened(folder: Path, trained: TrainedModel, sample: TableSample) -> str:
    """What the model in `folder`, opened again, answers beside the trial's own: in words.

    Raises:
        TrialError: it answers otherwise.
    """
    rows: Sequence[TableRow] = sample.rows
    ours = trained.predict(rows)
    theirs = np.stack(list(ExportedModel(folder, on_cpu=True).predict(rows)))
    difference = require_same(ours, theirs, "the exported model")
    where = f"{len(rows)} {sample.split} rows" if sample.split else f"{len(rows)} made-up rows (no data at hand)"
    said = f"opened again, on {where}: outputs within {difference:.0e} of the trial's"
    if sample.labels is None or sample.labels.ndim > 1:
        return f"{said}."
    return f"{said}, {(theirs.argmax(1) == sample.labels).mean():.4f} right."
