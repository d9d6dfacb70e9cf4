"""What a model is to answer for: images or rows of a table, out of shards or a CSV file, encoded by the model's own
means and vocabularies wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.data.cells import clean
from hpo.data.columns import Cells, Columns, TableRow
from hpo.data.decode import decode_rgb
from hpo.data.folder_source import FileLoader
from hpo.data.images import BadImage, ImagePolicy, store
from hpo.data.listing import NO_IMAGE, Loader, Reference
from hpo.data.pictures import Pictures
from hpo.data.table_source import read_csv
from hpo.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

TABLES = (".csv", ".tsv")


def columns_of(meta: Mapping[str, Any]) -> Columns | None:
    """The columns that the model of a checkpoint's meta.json takes; None: images alone."""
    return Columns.from_json(meta["columns"]) if "columns" in meta else None


def pixels_of(content: bytes | np.ndarray, policy: ImagePolicy) -> np.ndarray:
    """`content`, an encoded file or pixels, after the road through a shard made with `policy`."""
    stored, shape = store(content, policy)
    return np.frombuffer(stored, np.uint8).reshape(shape) if policy.encoding != "jpeg" else decode_rgb(stored)


class StoredSamples:
    """A split of shards: `load(i)` gives image i, uint8 (H, W, 3), or row i where `columns` are asked for.

    Raises:
        DataError: the shards lack one of the columns.
    """

    def __init__(self, shards: ShardSet, columns: Columns | None) -> None:
        self._shards: ShardSet | Pictures = shards
        self._encoded: tuple[np.ndarray, np.ndarray] | None = None
        if columns is None:
            return
        name, own = f"{shards.directory}", shards.columns
        if own is None:
            raise DataError(f"{name} has images alone, the model takes a table: {', '.join(columns.names)}.")
        self._shards, self._wide = Pictures(shards), len(own.images)
        self._places = [_place(image, own.images, name) for image in columns.images]
        self._encoded = _encode(columns, own.cells(shards.numbers, shards.codes), len(shards), name)

    def load(self, number: int) -> np.ndarray | TableRow:
        if self._encoded is None:
            return self._shards.pixels(number)
        assert isinstance(self._shards, Pictures)
        there = self._shards.present[number]
        images = (self._shards.pixels(number * self._wide + place) if there[place] else None for place in self._places)
        return TableRow(tuple(images), *(cells[number] for cells in self._encoded))


class TableRows:
    """Rows with images by reference; an image that is named and cannot be read makes `load` raise BadImage."""

    def __init__(
        self, columns: Columns, images: Sequence[Sequence[Reference]], cells: Cells, loader: Loader,
        policy: ImagePolicy, where: str,
    ) -> None:  # fmt: skip
        self._images, self._loader, self._policy = images, loader, policy
        self._encoded = _encode(columns, cells, len(images[0]), where)

    def __len__(self) -> int:
        return len(self._images[0])

    def load(self, number: int) -> TableRow:
        images = tuple(self._image(column[number]) for column in self._images)
        return TableRow(images, *(cells[number] for cells in self._encoded))

    def _image(self, reference: Reference) -> np.ndarray | None:
        if reference == NO_IMAGE:
            return None
        try:
            return pixels_of(self._loader.load(reference), self._policy)
        except BadImage as reason:
            raise BadImage(f"{reference}: {reason}") from None


def open_table(path: Path, columns: Columns, policy: ImagePolicy) -> tuple[TableRows, list[list[str]]]:
    """The rows of a CSV file, and the texts of their image columns. Other columns of the file are not looked at.

    Raises:
        UsageError: no CSV file, or one without a column that the model takes. DataError: a cell is no number.
    """
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"{path}: this model takes rows of a table; name a CSV file with {_listed(columns)}.")

    def choose(known: list[str]) -> list[str]:
        for name in (*columns.images, *columns.names):
            if name not in known:
                raise UsageError(f"{path} has no column {name!r}, which the model takes.{nearest(name, known)}")
        return [*columns.images, *columns.names]

    _, rows = read_csv(path, choose)
    images = [[row[name] for _, row in rows] for name in columns.images]
    cells = {name: [clean(row[name]) for _, row in rows] for name in columns.names}
    loader = FileLoader(str(path.absolute().parent))
    return TableRows(columns, images, cells, loader, policy, str(path)), images


def _listed(columns: Columns) -> str:
    return ", ".join((*columns.images, *columns.names))


def _encode(columns: Columns, cells: Cells, rows: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    return columns.numbers(cells, rows, where), columns.codes(cells, rows, where)


def _place(image: str, images: Sequence[str], where: str) -> int:
    if image not in images:
        raise DataError(f"{where} has no image column {image!r}, which the model takes.{nearest(image, images)}")
    return images.index(image)
