"""The files of a predictor: what it was told and how it judges, beside the weights. A sweep's directory holds them too.

DIR/predictor.json       label, classes, metrics; written before anything starts
    job.json             the process or SLURM job at work
    model.safetensors    weights in timm's names, once the fit is over
    model.json           what they are of: see hpo.trial.checkpoint's meta.json
    journal.jsonl, resolved.json   what came out of the search
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.layout import SweepDirectory, read_json, write_json
from hpo.predictor.labels import Labels

_FORMAT = 1


@dataclass(frozen=True)
class PredictorFiles:
    """Names the files of the predictor in `root`."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "predictor.json"

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def weights(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def model(self) -> Path:
        return self.root / "model.json"

    @property
    def sweep(self) -> SweepDirectory:
        return SweepDirectory(self.root)

    def copy_to(self, target: Path) -> None:
        """All that prediction and results need, to a directory that is new, empty or holds a copy that was saved.

        Raises:
            UsageError: the directory holds something else, such as a fit, or cannot be written.
        """
        try:
            target.mkdir(parents=True, exist_ok=True)
            there = PredictorFiles(target)
            if any(target.iterdir()) and (there.job.is_file() or not there.record.is_file()):
                what = "a fit" if there.record.is_file() else "something else"
                raise UsageError(f"{target} holds {what}; save to a new directory.")
            for path in (self.weights, self.model, self.sweep.journal, self.sweep.resolved, self.record):
                temporary = target / f".{path.name}.new"
                shutil.copyfile(path, temporary)
                temporary.replace(target / path.name)
        except OSError as error:
            raise UsageError(f"{target} cannot be written ({error.strerror}); save to another directory.") from None


@dataclass(frozen=True)
class Record:
    """What a predictor knows beside its model. `image`: the image column's name, None where it is found by content."""

    label: str
    labels: Labels
    image: str | None
    eval_metric: str
    validation_metric: str
    soup: str
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        values = {**vars(self), "labels": self.labels.to_json()}
        write_json(path, {"format": _FORMAT, **values})

    @classmethod
    def read(cls, files: PredictorFiles) -> Record:
        """The record of the predictor in a directory.

        Raises:
            UsageError: there is none, or it is of a newer version.
        """
        if not files.record.is_file():
            raise UsageError(
                f"{files.root} holds no predictor (it has no {files.record.name}); name one that was saved."
            )
        values = read_json(files.record)
        if values.pop("format") > _FORMAT:
            raise UsageError(f"{files.record} was written by a newer slurmtune; use that one.")
        return cls(**{**values, "labels": Labels.from_json(values["labels"])})
