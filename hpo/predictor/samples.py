"""Tables and folders of images in any form that people have, as one: where each image is, its label, its split, and
what else its row holds."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.data.columns import Columns, TableRow
from hpo.data.folder_source import EXTENSIONS, FileLoader
from hpo.data.images import BadImage, ImagePolicy
from hpo.data.listing import NO_IMAGE, Loader, Reference, Table
from hpo.data.manifest import MANIFEST
from hpo.data.pictures import Pictures
from hpo.data.read import open_split
from hpo.data.rows import TableRows, pixels_of
from hpo.data.sources import find_source
from hpo.data.table_source import delimiter_of
from hpo.errors import DataError, UsageError
from hpo.layout import absolute
from hpo.predictor.frames import TABLES, Roles, cells_of, find_image_column, image_references, require_columns

if TYPE_CHECKING:
    import pandas as pd

_READERS = 8

Content = bytes | np.ndarray | BadImage | None


@dataclass(frozen=True)
class Samples:
    """N images, or N rows of a `table`: `references` are then its first image column's. `labels` None: not known;
    `splits`: one of the data room's, or None where it is not said; `index`: the table's, for predictions to carry."""

    name: str
    references: Sequence[Reference]
    loader: Loader
    labels: Sequence[Any] | None
    splits: Sequence[str | None]
    index: Any = None
    notes: Sequence[str] = field(default_factory=tuple)
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def images(self) -> list[Sequence[Reference]]:
        """The references of every image column."""
        return [self.references, *(self.table.further if self.table else ())]

    def contents(self) -> Iterator[tuple[Content, ...]]:
        """The images of each row as they are stored, why one cannot be read, or None for one that is missing; read
        ahead by threads."""
        return _ahead(self._load, len(self))

    def _load(self, row: int) -> tuple[Content, ...]:
        return tuple(self._load_one(column[row]) for column in self.images)

    def _load_one(self, reference: Reference) -> Content:
        if self.table and reference == NO_IMAGE:
            return None
        try:
            return self.loader.load(reference)
        except BadImage as error:
            return error


@dataclass(frozen=True)
class _Held:
    """Images that a table holds itself, by place, beside those that it names."""

    images: Sequence[bytes]

    def load(self, reference: Reference) -> bytes:
        return self.images[reference] if isinstance(reference, int) else FileLoader("/").load(reference)


def is_prepared(data: Any) -> bool:
    """Whether `data` is a directory that launch/prepare.py made."""
    return isinstance(data, (str, Path)) and (Path(data).expanduser() / MANIFEST).is_file()


def read_frame(data: Any, roles: Roles, what: str) -> tuple[pd.DataFrame, str, Path] | None:
    """The table in `data` (DataFrame, mapping of columns, list of image paths, CSV, TSV, Parquet), its name, and what
    its paths are relative to; None: it is a folder or file of images.

    Raises:
        UsageError: nothing of that kind. DataError: a file that cannot be read, or no rows.
    """
    base = Path.cwd()
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        if path.suffix.lower() in TABLES:
            data, what, base = _read_table(path), str(path), path.parent
        elif path.suffix.lower() in EXTENSIONS:
            data = [str(path)]
        else:
            return None
    if isinstance(data, (list, tuple)) and all(isinstance(item, (str, os.PathLike, bytes, bytearray)) for item in data):
        data = {(roles.images or ("image",))[0]: list(data)}
    import pandas as pd

    if isinstance(data, Mapping):
        data = pd.DataFrame(dict(data))
    if not isinstance(data, pd.DataFrame):
        raise UsageError(
            f"{what} must be a DataFrame, a table file, a list of image paths or a folder of images, got "
            f"{type(data).__name__}."
        )
    if not len(data):
        raise DataError(f"{what} has no rows.")
    data = data.rename(columns=str)
    if not data.columns.is_unique:
        twice = data.columns[data.columns.duplicated()][0]
        raise UsageError(f"{what} has several columns {twice!r}; rename them, or keep one.")
    return data, what, base


def read_samples(data: Any, roles: Roles, what: str = "data") -> Samples:
    """The images or rows in `data`: all that `read_frame` reads, a folder or zip file of class folders, or a foreign
    HDF5 file. Columns without a role are not looked at.

    Raises:
        UsageError: nothing of that kind, or a column that is not there.
        DataError: a row without an image, or a file that cannot be read.
    """
    found = read_frame(data, roles, what)
    if found:
        return from_frame(*found, roles)
    if roles.has_table:
        listed = ", ".join((*(roles.images or ()), *roles.kinds))
        raise UsageError(f"{what} {data} holds images alone; name a table with {listed}.")
    return _from_source(Path(data).expanduser())


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        with path.open(encoding="utf-8-sig") as stream:
            return pd.read_csv(path, sep=delimiter_of(stream.readline()), encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name a table or a folder of images.") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path} cannot be read as a table ({str(error).splitlines()[0]}).") from None


def _from_source(path: Path) -> Samples:
    """What the data room lists by itself: class folders, zip files, HDF5."""
    source = find_source(path)
    listing = source.listing
    if listing.task == "regression":
        labels: list[Any] = listing.labels[:, 0].tolist()
    else:
        labels = [listing.class_names[number] for number in listing.labels.tolist()]
    return Samples(
        str(path), listing.references, source.loader, labels, listing.splits, np.arange(len(listing)), source.notes
    )


def from_frame(frame: pd.DataFrame, what: str, base: Path, roles: Roles) -> Samples:
    """The rows of a table by the roles of its columns."""
    require_columns(frame, roles, what)
    names = roles.images or (find_image_column(frame, roles.label, roles.usual, what),)
    images, held = image_references(frame, names, what, base, gaps=roles.has_table)
    table = None
    if roles.has_table:
        table = Table(names, images[1:], dict(roles.kinds), {name: cells_of(frame[name]) for name in roles.kinds})
    labels = frame[roles.label].tolist() if roles.label in frame.columns else None
    loader = _Held(held) if held else FileLoader("/")
    return Samples(what, images[0], loader, labels, [None] * len(frame), frame.index, table=table)


@dataclass(frozen=True)
class _Shards:
    """Images of a split that launch/prepare.py made, of all image columns together."""

    directory: str
    split: str

    def load(self, reference: Reference) -> bytes | np.ndarray:
        return _open_split(self.directory, self.split)[1].content(int(reference))


@functools.lru_cache(maxsize=2)
def _open_split(directory: str, split: str) -> Any:
    shards = open_split(directory, split)
    return shards, Pictures(shards) if shards.columns else shards


def read_prepared(directory: str | Path, split: str, roles: Roles | None = None) -> Samples:
    """One split of a directory that launch/prepare.py made; `roles`: of a model that takes a table.

    Raises:
        DataError: it has no such split, or lacks a column.
    """
    root = str(absolute(directory))
    shards, pictures = _open_split(root, split)
    numbers = shards.labels.tolist()
    labels = [row[0] for row in numbers] if shards.task == "regression" else [shards.class_names[n] for n in numbers]
    count, name = len(shards), f"{root} {split}"
    samples = Samples(name, range(count), _Shards(root, split), labels, [split] * count, np.arange(count))
    own = shards.columns
    if not (roles and roles.has_table):
        if own:
            raise DataError(f"{name} holds rows of a table, the model takes images alone; name a folder of images.")
        return samples
    lacking = [image for image in roles.images or () if own is None or image not in own.images]
    if own is None or lacking:
        raise DataError(f"{name} has no image column {lacking[0]!r}, which the model takes.")
    images = [_stored(pictures, own.images.index(image)) for image in roles.images or ()]
    table = Table(roles.images or (), images[1:], dict(roles.kinds), own.cells(shards.numbers, shards.codes))
    return Samples(name, images[0], samples.loader, labels, samples.splits, samples.index, table=table)


def _stored(pictures: Pictures, column: int) -> list[Reference]:
    there = pictures.present[:, column].tolist()
    return [row * pictures.present.shape[1] + column if has else NO_IMAGE for row, has in enumerate(there)]


def decoded(samples: Samples, policy: ImagePolicy, columns: Columns | None = None) -> Iterator[np.ndarray | TableRow]:
    """The pixels of each image, uint8 (H, W, 3), as they would come out of shards made with `policy`; or each row of
    a table, for a model that takes these columns.

    Raises:
        DataError: an image cannot be read; names its row.
    """
    rows = None
    if columns is not None:
        assert samples.table
        rows = TableRows(columns, samples.images, samples.table.cells, samples.loader, policy, samples.name)

    def attempt(row: int) -> np.ndarray | TableRow | BadImage:
        try:
            return rows.load(row) if rows else pixels_of(samples.loader.load(samples.references[row]), policy)
        except BadImage as error:
            return error

    for row, found in enumerate(_ahead(attempt, len(samples))):
        if isinstance(found, BadImage):
            reason = str(found) if columns else f"{samples.references[row]}: {found}"
            raise DataError(f"{samples.name} row {row} cannot be read: {reason}; remove the row.")
        yield found


def _ahead(load: Any, count: int) -> Iterator[Any]:
    """`load(row)` of each row in order, read ahead by threads."""
    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, count, _READERS * 8):
            yield from pool.map(load, range(first, min(count, first + _READERS * 8)))
