"""Tables and folders of images in any form that people have, as one: where each image is, its label, its split."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.data.decode import decode_rgb
from hpo.data.folder_source import EXTENSIONS, FileLoader
from hpo.data.images import BadImage, ImagePolicy, store
from hpo.data.listing import Loader, Reference
from hpo.data.manifest import MANIFEST
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.errors import DataError, UsageError, nearest
from hpo.layout import absolute

if TYPE_CHECKING:
    import pandas as pd

_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_LOOKED_AT = 50  # values of a column, to tell whether it names images
_READERS = 8


@dataclass(frozen=True)
class Samples:
    """N images. `labels` None: not known; `splits`: one of the data room's, or None where it is not said; `index`: the
    table's, for predictions to carry."""

    name: str
    references: Sequence[Reference]
    loader: Loader
    labels: Sequence[Any] | None
    splits: Sequence[str | None]
    index: Any = None
    notes: Sequence[str] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.references)

    def contents(self) -> Iterator[bytes | np.ndarray | BadImage]:
        """Each image as it is stored, or why it cannot be read, read ahead by threads."""
        with ThreadPoolExecutor(_READERS) as pool:
            for first in range(0, len(self), _READERS * 8):
                yield from pool.map(self._load, self.references[first : first + _READERS * 8])

    def _load(self, reference: Reference) -> bytes | np.ndarray | BadImage:
        try:
            return self.loader.load(reference)
        except BadImage as error:
            return error


@dataclass(frozen=True)
class _Memory:
    """Images that a table holds itself, by row."""

    images: Sequence[bytes]

    def load(self, reference: Reference) -> bytes:
        return self.images[int(reference)]


def is_prepared(data: Any) -> bool:
    """Whether `data` is a directory that launch/prepare.py made."""
    return isinstance(data, (str, Path)) and (Path(data).expanduser() / MANIFEST).is_file()


def read_samples(data: Any, label: str | None, image: str | None = None, what: str = "data") -> Samples:
    """The images in `data`: a DataFrame, a table file (CSV, TSV, Parquet), a mapping of columns, a list of image
    paths, a folder or zip file of class folders, or a foreign HDF5 file.

    Paths in a table are relative to its file, else to the current directory. `label` and `image` name the columns; the
    image column is found by its content if it is not named, and the label may be missing.

    Raises:
        UsageError: nothing of that kind, no image column, or columns that could not be used.
        DataError: a row without an image, or a file that cannot be read.
    """
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        if path.suffix.lower() in _TABLES:
            return _from_frame(_read_table(path), label, image, str(path), path.parent)
        if path.suffix.lower() in EXTENSIONS:
            data = [str(path)]
        else:
            return _from_source(path)
    if isinstance(data, (list, tuple)) and all(isinstance(item, (str, os.PathLike, bytes, bytearray)) for item in data):
        data = {image or "image": list(data)}
    import pandas as pd

    if isinstance(data, Mapping):
        data = pd.DataFrame(dict(data))
    if not isinstance(data, pd.DataFrame):
        raise UsageError(
            f"{what} must be a DataFrame, a table file, a list of image paths or a folder of images, got "
            f"{type(data).__name__}."
        )
    return _from_frame(data, label, image, what, Path.cwd())


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=None, engine="python") if path.suffix == ".tsv" else pd.read_csv(path)
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


def _from_frame(frame: pd.DataFrame, label: str | None, image: str | None, what: str, base: Path) -> Samples:
    if not len(frame):
        raise DataError(f"{what} has no rows.")
    image = _find_image_column(frame, label, image, what)
    others = [str(column) for column in frame.columns if column not in (label, image)]
    if others:
        raise UsageError(
            f"{what}: column {others[0]!r} is neither the image ({image!r}) nor the label ({label!r}), and tables are "
            f"not modelled beside images yet; pass data[[{image!r}, {label!r}]]."
        )
    values = frame[image].tolist()
    labels = frame[label].tolist() if label in frame.columns else None
    splits: list[str | None] = [None] * len(frame)
    missing = next(
        (row for row, value in enumerate(values) if not isinstance(value, (str, bytes, bytearray, os.PathLike))), None
    )
    if missing is not None:
        raise DataError(f"{what} row {missing} names no image ({values[missing]!r}); complete it or remove the row.")
    if isinstance(values[0], (bytes, bytearray)):
        memory = _Memory([bytes(value) for value in values])
        return Samples(what, list(range(len(values))), memory, labels, splits, frame.index)
    paths = [_locate(str(value), base) for value in values]
    return Samples(what, paths, FileLoader("/"), labels, splits, frame.index)


def _find_image_column(frame: pd.DataFrame, label: str | None, image: str | None, what: str) -> str:
    names = [str(column) for column in frame.columns]
    if image is not None:
        if image not in names:
            raise UsageError(f"{what} has no column {image!r}.{nearest(image, names)} It has {', '.join(names)}.")
        return image
    found = [column for column in frame.columns if column != label and _names_images(frame[column])]
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise UsageError(
            f"{what} has no column of image paths (*.jpg, *.png) among {', '.join(names)}; name it by image_column=."
        )
    raise UsageError(f"{what} has {len(found)} image columns ({', '.join(map(str, found))}); one is modelled so far.")


def _names_images(column: Any) -> bool:
    values = [value for value in column.head(_LOOKED_AT).tolist() if value is not None and value == value]
    if not values:
        return False
    return all(
        isinstance(value, (bytes, bytearray))
        or (isinstance(value, (str, os.PathLike)) and str(value).lower().endswith(EXTENSIONS))
        for value in values
    )


def _locate(path: str, base: Path) -> str:
    """Beside the table if it is there, else below the current directory."""
    expanded = Path(path).expanduser()
    beside = base / expanded
    return str(beside.absolute() if beside.exists() else expanded.absolute())


@dataclass(frozen=True)
class _Shards:
    """Images of a split that launch/prepare.py made."""

    directory: str
    split: str

    def load(self, reference: Reference) -> bytes | np.ndarray:
        shards = _open_split(self.directory, self.split)
        content = shards.read_bytes(int(reference))
        return content if shards.image_shape is None else np.frombuffer(content, np.uint8).reshape(shards.image_shape)


@functools.lru_cache(maxsize=2)
def _open_split(directory: str, split: str) -> Any:
    return open_split(directory, split)


def read_prepared(directory: str | Path, split: str) -> Samples:
    """One split of a directory that launch/prepare.py made.

    Raises:
        DataError: it has no such split.
    """
    root = str(absolute(directory))
    shards = _open_split(root, split)
    numbers = shards.labels.tolist()
    labels = [row[0] for row in numbers] if shards.task == "regression" else [shards.class_names[n] for n in numbers]
    count = len(shards)
    return Samples(f"{root} {split}", range(count), _Shards(root, split), labels, [split] * count, np.arange(count))


def decoded(samples: Samples, policy: ImagePolicy) -> Iterator[np.ndarray]:
    """The pixels of each image, uint8 (H, W, 3), as they would come out of shards made with `policy`.

    Raises:
        DataError: one cannot be read; names its row.
    """
    for row, content in enumerate(samples.contents()):
        try:
            if isinstance(content, BadImage):
                raise content
            stored, shape = store(content, policy)
        except BadImage as error:
            reference = samples.references[row]
            raise DataError(
                f"{samples.name} row {row} ({reference}) cannot be read: {error}; remove the row."
            ) from None
        raw = policy.encoding == "raw"
        yield np.frombuffer(stored, np.uint8).reshape(shape) if raw else decode_rgb(stored)
