"""An exported model at work: pictures in, class probabilities or numbers out, prepared exactly as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from hpo.data.columns import Columns, TableRow
from hpo.data.images import ImagePolicy
from hpo.data.rows import columns_of
from hpo.errors import UsageError
from hpo.export.timm_form import DESCRIPTION
from hpo.layout import read_json
from hpo.trial.inference import TrainedModel

_AT_ONCE = 64


class ExportedModel:
    """The model in a directory that launch/export.py wrote, on a GPU where there is one, unless `on_cpu`.

    Raises:
        UsageError: it is no such directory, or its files are damaged. TrialError: they do not belong together.
    """

    def __init__(self, folder: Path, on_cpu: bool = False) -> None:
        if not (folder / DESCRIPTION).is_file():
            raise UsageError(f"{folder} is not an exported model (it has no {DESCRIPTION}); name what export.py wrote.")
        self.meta: dict[str, Any] = read_json(folder / DESCRIPTION)
        try:
            weights = load_file(folder / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{folder / 'model.safetensors'} cannot be read ({error}); export it again.") from None
        own = {"env.accelerator": "cpu"} if on_cpu else {}
        self._trained = TrainedModel({**self.meta, "config": {**self.meta["config"], **own}}, weights)

    @property
    def table(self) -> Columns | None:
        """The columns that the model takes; None: images alone."""
        return columns_of(self.meta)

    @property
    def policy(self) -> ImagePolicy:
        """How a photograph is stored before the model sees it; where the export did not know it, as the file is."""
        return ImagePolicy(**(self.meta["images"] or {"encoding": "jpeg", "size": None, "max_side": None}))

    @property
    def columns(self) -> list[str]:
        """What the outputs are: classes, or label columns."""
        if self.meta["task"] == "classification":
            return list(self.meta["class_names"])
        count = int(self.meta["outputs"])
        return ["value"] if count == 1 else [f"value_{place}" for place in range(count)]

    def predict(self, samples: Iterable[np.ndarray | TableRow]) -> Iterator[np.ndarray]:
        """For each image, uint8 (H, W, 3), or where the model takes a table each row, probabilities by class or numbers
        in the labels' units, float64 (C,)."""
        waiting: list[np.ndarray | TableRow] = []
        for sample in samples:
            waiting.append(sample)
            if len(waiting) == _AT_ONCE:
                yield from self._trained.predict(waiting)
                waiting = []
        if waiting:
            yield from self._trained.predict(waiting)
