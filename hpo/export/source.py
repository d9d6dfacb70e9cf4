"""Which weights of a sweep are to be exported, and images by which two ways to run them can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpo.data.manifest import read_manifest
from hpo.data.read import open_split
from hpo.errors import DataError, SweepError, TrialError
from hpo.export.images import decode_stored
from hpo.results.read import Results, Row
from hpo.trial.checkpoint import META, WEIGHTS, Checkpoint
from hpo.trial.soup import ranked_checkpoints
from hpo.trialconfig import TrialConfig

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


def find_weights(results: Results, row: Row | None) -> Weights:
    """The weights of trial `row`, or of the best one; a damaged checkpoint is never taken.

    Raises:
        SweepError: there are none: no usable trial, or its checkpoints are gone.
    """
    chosen = row or results.best
    if chosen is None:
        raise SweepError(f"no trial of {results.directory.root} has a value of {results.metric}; nothing to export.")
    found = ranked_checkpoints(results.directory.trial(chosen.trial), results.mode)
    if found and "columns" in found[0].load_meta():
        raise SweepError(f"{results.directory.root}: models of a table cannot be exported yet.")
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


def comparison_images(weights: Weights, data: Path) -> Sample:
    """Images spread over the validation split of `data`; where that is not at hand, seeded noise of several scales.

    Raises:
        TrialError: the data are other ones than the trial was trained on.
    """
    size = int(weights.meta["input"]["size"])
    try:
        shards = open_split(data, "validation")
    except DataError:
        return Sample("", _noise(size), None)
    if shards.fingerprint != weights.meta["data_fingerprint"]:
        raise TrialError(
            f"{data} holds other images than trial {weights.row.trial} was trained on (fingerprint "
            f"{shards.fingerprint[:12]}, then {weights.meta['data_fingerprint'][:12]}); put the data of that time back."
        )
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(len(shards), _MOST_COMPARED)).astype(int))
    stored = (decode_stored(shards, int(number)) for number in chosen)
    return Sample("validation", render(stored, weights.meta), shards.labels[chosen])


def render(images: Any, meta: Mapping[str, Any]) -> np.ndarray:
    """`images`, an iterable of uint8 (H, W, 3), cropped and scaled as in the trial's evaluation: uint8 (N, S, S, 3)."""
    from hpo.trial.augment import Augmentation
    from hpo.trial.render import render_image

    config, size = TrialConfig.from_flat(meta["config"]), int(meta["input"]["size"])
    augmentation = Augmentation.of(config.model, meta["seed"])
    rendered = []
    for image in images:
        height, width = image.shape[:2]
        crops = augmentation.crops(np.zeros(1, np.int64), np.array([height]), np.array([width]))
        rendered.append(np.empty((size, size, 3), np.uint8))
        render_image(image, crops.boxes[0].tolist(), False, rendered[-1], config.model.interpolation)
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
