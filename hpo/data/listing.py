"""What a source of images lists before any is read: where each image is, its label, and its split if it has one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hpo.data.cells import as_number, clean
from hpo.data.columns import Cells
from hpo.errors import DataError, UsageError

Reference = str | int  # a path, or a position in a dataset
NO_IMAGE = ""  # the reference of an image that a row of a table does not have


class Loader(Protocol):
    """Reads one image. It travels to worker processes, so it holds paths, not open files."""

    def load(self, reference: Reference) -> bytes | np.ndarray:
        """An encoded file, or uint8 pixels (height, width[, channels]).

        Raises:
            BadImage: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Table:
    """What the rows of a listing have beside their first image and their label.

    `images`: the names of all image columns; `further`: references for those after the first. `kinds`: numerical or
    categorical for each other column, `cells` what is in it.
    """

    images: Sequence[str]
    further: Sequence[Sequence[Reference]]
    kinds: dict[str, str]
    cells: Cells

    def row(self, number: int) -> tuple[Any, ...]:
        """Everything in row `number`, to tell rows apart."""
        return (*(column[number] for column in (*self.further, *self.cells.values())),)


@dataclass(frozen=True)
class Listing:
    """All images of a source, in the order in which they are stored.

    `labels`: int64 (N,) class numbers, or float32 (N, K) in regression. `splits`: one of SPLITS or None (not given) for
    each image. `sizes`: int64 (N,), bytes of each encoded image, about those of HDF5. `table`: further columns if there
    are any; only then a reference may be NO_IMAGE, and `sizes` are those of all images of a row.
    """

    references: Sequence[Reference]
    task: str
    labels: np.ndarray
    class_names: list[str]
    splits: Sequence[str | None]
    sizes: np.ndarray
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def num_classes(self) -> int:
        return self.labels.shape[1] if self.task == "regression" else len(self.class_names)

    def sha256(self) -> str:
        """Of names, labels, splits and sizes: tells whether a source is still what a directory was begun with."""
        checksum = hashlib.sha256(repr((self.task, self.class_names)).encode("utf-8", "surrogateescape"))
        for reference, split in zip(self.references, self.splits, strict=True):
            checksum.update(f"{reference}\0{split}\n".encode("utf-8", "surrogateescape"))
        checksum.update(self.labels.tobytes())
        checksum.update(self.sizes.tobytes())
        if self.table:
            checksum.update(repr((list(self.table.images), self.table.kinds)).encode("utf-8", "surrogateescape"))
            for number in range(len(self)):
                checksum.update(repr(self.table.row(number)).encode("utf-8", "surrogateescape"))
        return checksum.hexdigest()


@dataclass(frozen=True)
class Source:
    """A listing and the means to read its images. `notes` are told to the person; `options` are what shaped it."""

    kind: str
    path: str
    listing: Listing
    loader: Loader
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that people call `name`, or None."""
    return _SPLIT_NAMES.get(name.strip().casefold())


def encode_labels(
    columns: Sequence[Sequence[str]], task: str | None, where: Sequence[str]
) -> tuple[str, np.ndarray, list[str]]:
    """Task, labels and class names of text labels: numbers that are not all whole mean regression, unless `task` says.

    Args:
        columns: K lists of N labels; where: N descriptions for errors ('row 7').
    Raises:
        DataError: a label is empty, a word for a missing one among numbers or, in regression, not a finite number.
        UsageError: several columns in classification.
    """
    for column in columns:
        for text, place in zip(column, where, strict=True):
            if not text:
                raise DataError(f"{place} has no label; complete it or remove the row.")
    for column in columns:
        _require_no_gaps(column, where)
    if task is None:
        numbers = [as_number(text) for column in columns for text in column]
        task = "regression" if _measured(numbers) else "classification"
    if task == "regression":
        return task, _regression_labels(columns, where), []
    if len(columns) != 1:
        raise UsageError(f"classification takes one label column, {len(columns)} are given; or say --task regression.")
    names = _sorted_names(set(columns[0]))
    number_of = {name: number for number, name in enumerate(names)}
    return task, np.array([number_of[text] for text in columns[0]], np.int64), names


def _require_no_gaps(column: Sequence[str], where: Sequence[str]) -> None:
    """Where all the others are numbers 'nan' and the like are none, and no class either."""
    gaps = [place for place, text in enumerate(column) if clean(text) is None]
    if gaps and len(gaps) < len(column) and all(as_number(text) is not None for text in column if clean(text)):
        raise DataError(
            f"{where[gaps[0]]} has label {column[gaps[0]]!r} where others have numbers; complete it or remove the row."
        )


def _measured(numbers: Sequence[float | None]) -> bool:
    found = [number for number in numbers if number is not None]
    return len(found) == len(numbers) and any(not number.is_integer() for number in found)


def _regression_labels(columns: Sequence[Sequence[str]], where: Sequence[str]) -> np.ndarray:
    values = np.empty((len(where), len(columns)), np.float32)
    for k, column in enumerate(columns):
        for i, text in enumerate(column):
            number = as_number(text)
            if number is None:
                raise DataError(f"{where[i]} has label {text!r}, not a finite number; mend it or remove the row.")
            values[i, k] = number
    return values


def _sorted_names(names: set[str]) -> list[str]:
    """By value if all are whole numbers ('2' before '10'), else by text."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)
