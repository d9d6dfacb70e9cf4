"""From a sweep's directory to a model that stands alone: find, write, compare, describe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpo.data.rows import columns_of
from hpo.errors import TrialError, UsageError
from hpo.export.card import render_card
from hpo.export.check import Answers, ask_plain_timm, require_same
from hpo.export.graph import GRAPHS, write_graph
from hpo.export.source import (
    Sample,
    Weights,
    comparison_images,
    comparison_rows,
    find_weights,
    image_policy,
    table_columns,
)
from hpo.export.table_form import compare_reopened, write_table_model
from hpo.export.timm_form import load_trained, write_model
from hpo.layout import write_text
from hpo.results.read import Results, Row
from hpo.trial.inference import TrainedModel

_BATCH = 64


def export_model(results: Results, row: Row | None, folder: Path, data: Path, graphs: list[str]) -> Iterator[str]:
    """Fills `folder` with the model of trial `row`, by default the best; yields what was done, line by line.

    Args:
        data: the shards; where they are not at hand the comparison takes made-up images.
        graphs: of hpo.export.graph.GRAPHS.
    Raises:
        SweepError: no weights are left. TrialError: plain timm, or a graph, does not answer as the trial did.
    """
    weights = find_weights(results, row)
    weights = replace(weights, meta={**weights.meta, **table_columns(data)})
    meta = weights.meta
    yield f"trial {weights.row.trial}, epoch {meta['epoch']}, {meta['metric']} {meta['value']:.4f}: {meta['model']}"
    if "columns" in meta:
        yield from _export_table_model(results, weights, folder, data, graphs)
        return
    sample = comparison_images(weights, data)
    trained = load_trained(weights)
    ours = _outputs(trained, sample.pixels)
    write_model(folder, weights, trained.model, image_policy(data))
    answers = ask_plain_timm(folder, sample.pixels)
    checks = [_compare(answers, ours, meta, sample)]
    yield checks[0]
    for kind in graphs:
        theirs = write_graph(kind, folder, load_trained(weights).model, _normalised(sample.pixels, meta))
        difference = require_same(ours, theirs, GRAPHS[kind])
        checks.append(f"{GRAPHS[kind]}, opened again: outputs within {difference:.0e} of the trial's.")
        yield checks[-1]
    write_text(folder / "README.md", render_card(results, weights.row, meta, "Compared: " + " ".join(checks)))
    yield f'done: timm.create_model("local-dir:{folder_name(folder)}", pretrained=True)'


def _export_table_model(
    results: Results, weights: Weights, folder: Path, data: Path, graphs: list[str]
) -> Iterator[str]:
    if graphs:
        raise UsageError(f"--also {graphs[0]} is for models of images alone, this one takes a table; leave it out.")
    columns = columns_of(weights.meta)
    names = columns.names if columns else ()
    write_table_model(folder, weights, image_policy(data))
    yield (
        f"it takes a table ({', '.join(names)}), which timm's form cannot hold: written in slurmtune's own, for "
        "predict.py and evaluate.py; plain timm does not open it"
    )
    check = compare_reopened(folder, load_trained(weights), comparison_rows(weights, data))
    yield check
    write_text(folder / "README.md", render_card(results, weights.row, weights.meta, f"Compared: {check}"))
    yield f"done: python launch/predict.py {folder_name(folder)} TABLE.csv"


def folder_name(folder: Path) -> str:
    """The name that a folder will have which is filled under a temporary one, '.NAME.PID.new'."""
    parts = folder.name.split(".")
    return ".".join(parts[1:-2]) if parts[-1] == "new" and not parts[0] else folder.name


def _outputs(trained: TrainedModel, pixels: np.ndarray) -> np.ndarray:
    parts = [
        trained.forward(torch.from_numpy(pixels[first : first + _BATCH])) for first in range(0, len(pixels), _BATCH)
    ]
    return torch.cat(parts).float().numpy()


def _normalised(pixels: np.ndarray, meta: dict[str, Any]) -> torch.Tensor:
    """float32 (N, 3, S, S), as by (x / 255 - mean) / std."""
    mean, std = (torch.tensor(meta["input"][name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _compare(answers: Answers, ours: np.ndarray, meta: dict[str, Any], sample: Sample) -> str:
    if meta["task"] == "classification" and answers.class_names != list(meta["class_names"]):
        raise TrialError(f"plain timm names the classes {answers.class_names}, not as trained; nothing was exported.")
    difference = require_same(ours, answers.outputs, f"timm {answers.timm}")
    where = f"{len(ours)} {sample.split} images" if sample.split else f"{len(ours)} made-up images (no data at hand)"
    said = f"timm {answers.timm} alone, in a clean process, on {where}: outputs within {difference:.0e} of the trial's"
    if sample.labels is None or meta["task"] != "classification":
        return f"{said}."
    same = int((answers.outputs.argmax(1) == ours.argmax(1)).sum())
    right = int((answers.outputs.argmax(1) == sample.labels).sum())
    return f"{said}, {same} of {len(ours)} classes the same, {right / len(ours):.4f} right."
