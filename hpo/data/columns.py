"""The columns that a model takes beside its first image: what each is, and the way from cells to arrays and back.

Means, deviations and vocabularies are the training split's, computed once when shards are made; manifest.json and
every checkpoint carry them, so that a new row is read as the training's were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpo.data.cells import NUMERICAL, Cell, as_category, require_numbers
from hpo.errors import DataError, nearest

MISSING, UNKNOWN, FIRST = 0, 1, 2  # codes of a category: none given, not in the vocabulary, the vocabulary's first
_UNKNOWN_TEXT = "\0unknown"  # no cell of a person's

Cells = Mapping[str, Sequence[Cell]]  # column -> clean cells


@dataclass(frozen=True)
class Numerical:
    """`mean` and `std` of the training split's cells."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class Categorical:
    """The training split's categories by text, and in how many of its rows each is."""

    name: str
    categories: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Columns:
    """`images`: names of the image columns, at least one. Any of the others may be empty."""

    images: tuple[str, ...]
    numerical: tuple[Numerical, ...]
    categorical: tuple[Categorical, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that are no images."""
        return (*(column.name for column in self.numerical), *(column.name for column in self.categorical))

    def numbers(self, cells: Cells, rows: int, where: Sequence[str] | str) -> np.ndarray:
        """float64 (rows, numerical columns), NaN where missing.

        Raises:
            DataError: a column is not there, or a cell is no number.
        """
        found = [require_numbers(c.name, _column(cells, c.name, where), where) for c in self.numerical]
        return np.array(found, np.float64).reshape(len(found), rows).T.copy()

    def codes(self, cells: Cells, rows: int, where: Sequence[str] | str) -> np.ndarray:
        """int32 (rows, categorical columns): MISSING, UNKNOWN, or FIRST + the place in the vocabulary.

        Raises:
            DataError: a column is not there.
        """
        found = [_encode(_column(cells, c.name, where), c.categories) for c in self.categorical]
        return np.array(found, np.int32).reshape(len(found), rows).T.copy()

    def cells(self, numbers: np.ndarray, codes: np.ndarray) -> Cells:
        """The way back. A category that the vocabulary does not hold stays unknown to every other one."""
        found: dict[str, Sequence[Cell]] = {}
        for place, number in enumerate(self.numerical):
            found[number.name] = [None if value != value else value for value in numbers[:, place].tolist()]
        for place, category in enumerate(self.categorical):
            texts: list[Cell] = [None, _UNKNOWN_TEXT, *category.categories]
            found[category.name] = [texts[code] for code in codes[:, place].tolist()]
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Columns:
        return cls(
            tuple(values["images"]),
            tuple(Numerical(**value) for value in values["numerical"]),
            tuple(
                Categorical(value["name"], tuple(value["categories"]), tuple(value["counts"]))
                for value in values["categorical"]
            ),
        )


@dataclass(frozen=True)
class TableRow:
    """One row to predict. images: uint8 (H, W, 3) for each image column, None where missing; numbers float64 (n,) and
    codes int32 (c,) as `Columns` makes them."""

    images: tuple[np.ndarray | None, ...]
    numbers: np.ndarray
    codes: np.ndarray


def fit_columns(
    images: Sequence[str], kinds: Mapping[str, str], cells: Cells, training: np.ndarray, where: Sequence[str] | str
) -> Columns:
    """Statistics and vocabularies of the rows where `training`, bool (N,), is true.

    Args:
        kinds: NUMERICAL or CATEGORICAL for each further column, in the order in which a model takes them.
    Raises:
        DataError: a cell of a numerical column is no number.
    """
    rows = np.flatnonzero(training).tolist()
    numerical, categorical = [], []
    for name, kind in kinds.items():
        if kind == NUMERICAL:
            numbers = require_numbers(name, cells[name], where)
            given = np.array([numbers[row] for row in rows if numbers[row] is not None], np.float64)
            mean, std = (float(given.mean()), float(given.std())) if len(given) else (0.0, 0.0)
            numerical.append(Numerical(name, mean, std if std > 0 else 1.0))
        else:
            texts = Counter(as_category(cells[name][row]) for row in rows if cells[name][row] is not None)
            found = sorted(texts)
            categorical.append(Categorical(name, tuple(found), tuple(texts[text] for text in found)))
    return Columns(tuple(images), tuple(numerical), tuple(categorical))


def _encode(cells: Sequence[Cell], categories: Sequence[str]) -> list[int]:
    place = {text: FIRST + number for number, text in enumerate(categories)}
    return [MISSING if cell is None else place.get(as_category(cell), UNKNOWN) for cell in cells]


def _column(cells: Cells, name: str, where: Sequence[str] | str) -> Sequence[Cell]:
    if name not in cells:
        place = where if isinstance(where, str) else "the table"
        raise DataError(f"{place} has no column {name!r}, which the model takes.{nearest(name, cells)}")
    return cells[name]
