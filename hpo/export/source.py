"""Which weights of a sweep are to be exported, and images by which two ways to run them can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpo.data.columns import FIRST, Columns, TableRow
from hpo.data.manifest import read_manifest
from hpo.data.read import open_split
from hpo.data.rows import StoredSamples, columns_of
from hpo.errors import DataError, SweepError, TrialError
from hpo.results.read import Results, Row
from hpo.trial.checkpoint import META, WEIGHTS, Checkpoint
from hpo.trial.soup import ranked_checkpoints
from hpo.trialconfig import TrialConfig

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_MOST_COMPARED = 512  # images, spread over the split


@dataclass(frozen=True)
class Weights:
    """The weights of a trial's best epoch. `meta`: what its checkpoint says of them, see hpo.trial.checkpoint."""

    row: Row
    meta: dict[str, Any]
    tensors: Mapping[str, Tensor]
    path: Path


@dataclass(frozen=True)
class Sample:
    """Images of `split` as a model's input sees them: uint8 (N, S, S, 3). `labels` int64 (N,) or float32 (N, K)."""

    split: str
    pixels: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class TableSample:
    """Rows of `split`, '' where they are made up. `labels` as Sample's."""

    split: str
    rows: list[TableRow]
    labels: np.ndarray | None


def find_weights(results: Results, row: Row | None) -> Weights:
    """The weights of trial `row`, or of the best one; a damaged checkpoint is never taken.

    Raises:
        SweepError: there are none: no usable trial, or its checkpoints are gone.
    """
    chosen = row or results.best
    if chosen is None:
        raise SweepError(f"no trial of {results.directory.root} has a value of {results.metric}; nothing to export.")
    found = ranked_checkpoints(results.directory.trial(chosen.trial), results.mode)
    if found:
        return Weights(chosen, found[0].load_meta(), found[0].load_weights(), found[0].path)
    kept = _kept_winner(results, chosen)
    if kept:
        return kept
    others = [other.trial for other in results.rows if ranked_checkpoints(_folder(results, other), results.mode)]
    remedy = f"--trial {others[0]} is the best one that has some" if others else "no other trial has any"
    raise SweepError(f"trial {chosen.trial} has no intact weights in {_folder(results, chosen)}; {remedy}.")


def _folder(results: Results, row: Row) -> Path:
    return results.directory.trial(row.trial)


def _kept_winner(results: Results, row: Row) -> Weights | None:
    """DIR/best, where it holds this trial: it outlives the trial's own checkpoints."""
    best = results.directory.best
    try:
        if json.loads((best / "config.json").read_text(encoding="utf-8"))["trial"] != row.trial:
            return None
        checkpoint = Checkpoint(best, row.best_epoch or 0)
        return Weights(row, checkpoint.load_meta(), load_file(best / WEIGHTS), best / META)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def image_policy(data: Path) -> dict[str, Any] | None:
    """How the images of the shards in `data` were stored, as arguments of ImagePolicy; None: not known."""
    try:
        options = read_manifest(data).source.get("options", {})
    except DataError:
        return None
    return {"encoding": options.get("--encoding", "jpeg"), "size": options.get("--size"),
            "max_side": options.get("--max-side")}  # fmt: skip


def table_columns(data: Path) -> dict[str, list[str] | None]:
    """The columns of images and of labels of the table that the shards in `data` were made of; None: not known."""
    try:
        options = read_manifest(data).source.get("options", {})
    except DataError:
        options = {}
    images = options.get("--image-column")
    return {
        "image_columns": [images] if isinstance(images, str) else images,
        "label_columns": options.get("--label-column"),
    }


def comparison_images(weights: Weights, data: Path) -> Sample:
    """Images spread over the validation split of `data`; where that is not at hand, seeded noise of several scales.

    Raises:
        TrialError: the data are other ones than the trial was trained on.
    """
    found = _spread(weights, data)
    if found is None:
        return Sample("", _noise(int(weights.meta["input"]["size"])), None)
    shards, chosen = found
    stored = StoredSamples(shards, None)
    images = (stored.load(int(number)) for number in chosen)
    return Sample("validation", render(images, weights.meta), shards.labels[chosen])


def comparison_rows(weights: Weights, data: Path) -> TableSample:
    """As comparison_images, of a model that takes a table; the made-up rows have their gaps too."""
    found, columns = _spread(weights, data), columns_of(weights.meta)
    assert columns
    if found is None:
        return TableSample("", _made_up(columns, int(weights.meta["input"]["size"])), None)
    shards, chosen = found
    stored = StoredSamples(shards, columns)
    rows = [row for number in chosen if isinstance(row := stored.load(int(number)), TableRow)]
    return TableSample("validation", rows, shards.labels[chosen])


def _made_up(columns: Columns, size: int) -> list[TableRow]:
    random, rows = np.random.default_rng(0), list[TableRow]()
    for image in _noise(size):
        images = tuple(image if random.random() < 0.8 else None for _ in columns.images)
        numbers = np.array([random.normal(column.mean, column.std) for column in columns.numerical], np.float64)
        codes = [random.integers(FIRST + len(column.categories)) for column in columns.categorical]
        numbers[random.random(len(numbers)) < 0.2] = np.nan
        rows.append(TableRow(images, numbers, np.array(codes, np.int32)))
    return rows


def _spread(weights: Weights, data: Path) -> tuple[ShardSet, np.ndarray] | None:
    """The validation split of `data` and places spread over it; None where it is not at hand."""
    try:
        shards = open_split(data, "validation")
    except DataError:
        return None
    if shards.fingerprint != weights.meta["data_fingerprint"]:
        raise TrialError(
            f"{data} holds other images than trial {weights.row.trial} was trained on (fingerprint "
            f"{shards.fingerprint[:12]}, then {weights.meta['data_fingerprint'][:12]}); put the data of that time back."
        )
    return shards, np.unique(np.linspace(0, len(shards) - 1, min(len(shards), _MOST_COMPARED)).astype(int))


def render(images: Any, meta: Mapping[str, Any]) -> np.ndarray:
    """`images`, an iterable of uint8 (H, W, 3), cropped and scaled as in the trial's evaluation: uint8 (N, S, S, 3)."""
    from hpo.trial.middle import Middle

    config, size = TrialConfig.from_flat(meta["config"]), int(meta["input"]["size"])
    middle = Middle.of(config.model, config.model.interpolation)
    rendered = []
    for image in images:
        rendered.append(np.empty((size, size, 3), np.uint8))
        middle.render(image, rendered[-1])
    return np.stack(rendered)


def _noise(size: int) -> np.ndarray:
    """32 images between a flat grey and pixels of any value, the same each time."""
    random = np.random.default_rng(0)
    images = []
    for number in range(32):
        coarse = random.integers(0, 256, (1 << number % 6, 1 << number % 6, 3), dtype=np.uint8)
        repeats = -(-size // len(coarse))
        images.append(coarse.repeat(repeats, 0).repeat(repeats, 1)[:size, :size])
    return np.stack(images)
