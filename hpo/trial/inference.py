"""A trained model from what its checkpoint says: images in, class probabilities or numbers out. No shards, no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpo.data.columns import Columns, TableRow
from hpo.errors import TrialError
from hpo.trial.device import ACCELERATOR_VARIABLE
from hpo.trial.fusion import build_model
from hpo.trial.middle import Middle
from hpo.trial.model import is_convolutional
from hpo.trial.render import Normaliser
from hpo.trial.rows import Rows, stack_rows
from hpo.trialconfig import TrialConfig

_BATCH = 32


class TrainedModel:
    """The model that `meta` (a checkpoint's meta.json) and `weights` describe, on a GPU where there is one.

    Raises:
        TrialError: weights and description do not belong together.
    """

    def __init__(self, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        config = TrialConfig.from_flat(meta["config"])
        columns = Columns.from_json(meta["columns"]) if "columns" in meta else None
        size = meta["input"]["size"]
        model, self.feed = build_model(config, columns, meta["outputs"], size, with_weights=False)
        self.device = choose_device(config)
        self.layout = torch.channels_last if is_convolutional(model) else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.layout).eval()  # type: ignore[call-overload]
        self.load(weights)
        self._normalise = Normaliser(self.feed, self.device, self.layout)
        self._middle = Middle.of(config.model, self.feed.interpolation)
        self._classes = meta["task"] == "classification"
        if not self._classes:
            self._mean, self._std = np.array(meta["label_mean"]), np.array(meta["label_std"])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Puts other weights of the same model in place."""
        try:
            self.model.load_state_dict(weights)
            self.model.eval()  # models such as LeViT keep what they make of weights in evaluation until this is said
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise TrialError(f"these weights are not of {type(self.model).__name__} ({reason}).") from error

    def predict(self, samples: Iterable[np.ndarray | TableRow]) -> np.ndarray:
        """Class probabilities float64 (N, C), or numbers in the labels' units (N, K), for images uint8 (H, W, 3), RGB,
        or where the model takes a table for rows of one."""
        return np.concatenate([self.finish(self.outputs(chunk)) for chunk in _chunks(iter(samples))])

    def finish(self, outputs: Tensor) -> np.ndarray:
        """A model's outputs (N, C) as probabilities, or in the labels' own units."""
        values = outputs.double()
        if self._classes:
            return values.softmax(1).cpu().numpy()
        return values.cpu().numpy() * self._std + self._mean

    def outputs(self, samples: list[np.ndarray | TableRow]) -> Tensor:
        """The model's outputs (N, C) for images, or for rows of a table, on the device."""
        rows = [sample for sample in samples if isinstance(sample, TableRow)]
        if not rows:
            return self.forward(self._render([image for image in samples if isinstance(image, np.ndarray)]))
        images = [image for row in rows for image in row.images if image is not None]
        return self.forward(self._render(images), stack_rows(rows))

    def _render(self, images: list[np.ndarray]) -> Tensor:
        """Images as in evaluation, uint8 (B, S, S, 3)."""
        size = self.feed.size
        pixels = np.empty((len(images), size, size, 3), np.uint8)
        for image, out in zip(images, pixels, strict=True):
            self._middle.render(image, out)
        return torch.from_numpy(pixels)

    def forward(self, pixels: Tensor, rows: Rows | None = None) -> Tensor:
        """Outputs (B, C) for rendered images, uint8 (P, H, W, 3) on the host, and the rows that they belong to."""
        with torch.no_grad():
            images = self._normalise(pixels.to(self.device).permute(0, 3, 1, 2))
            return self.model(images, rows.to(self.device)) if rows else self.model(images)


def choose_device(config: TrialConfig) -> torch.device:
    """The first GPU, unless there is none or the trial or the environment says cpu."""
    choice = os.environ.get(ACCELERATOR_VARIABLE) or config.env.accelerator
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def _chunks(samples: Iterator[np.ndarray | TableRow]) -> Iterator[list[np.ndarray | TableRow]]:
    while chunk := list(islice(samples, _BATCH)):
        yield chunk
