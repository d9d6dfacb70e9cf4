"""Images to predict or to judge by: listed, read ahead by threads, made pixels as prepare.py would store them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.cells import CATEGORICAL, NUMERICAL
from hpo.data.columns import Columns, TableRow
from hpo.data.folder_source import EXTENSIONS
from hpo.data.images import BadImage, ImagePolicy
from hpo.data.manifest import HDF5_ENDINGS, MANIFEST
from hpo.data.read import describe, open_split
from hpo.data.rows import TABLES, StoredSamples, TableRows, columns_of, pixels_of
from hpo.data.sources import SourceOptions, find_source
from hpo.errors import DataError, UsageError, nearest

_THREADS = 4
_AHEAD = 16  # images a thread may be ahead: they are whole photographs


Sample = np.ndarray | TableRow


@dataclass(frozen=True)
class LabelledImages:
    """`load(i)` gives image i, uint8 (H, W, 3), or row i of a table, or raises BadImage. `labels` int64 (N,), in the
    numbering of the model's classes, or float32 (N, K). `split`: '' where the source has none."""

    name: str
    split: str
    labels: np.ndarray
    names: Sequence[str]
    load: Callable[[int], Sample]


def list_images(places: Sequence[str]) -> list[Path]:
    """The image files that `places` name: files, folders with all below them, patterns; in order, each once.

    Raises:
        UsageError: nothing there, or a folder without images.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place).expanduser()
        inside = _below(path) if path.is_dir() else [path] if path.is_file() else _matching(str(path))
        if not inside:
            what = "holds no images" if path.is_dir() else "does not exist"
            raise UsageError(f"{place} {what}; name image files ({', '.join(EXTENSIONS)}) or folders of them.")
        found |= dict.fromkeys(inside)
    return list(found)


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def _matching(pattern: str) -> list[Path]:
    return sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207


def read_file(path: Path, policy: ImagePolicy) -> np.ndarray:
    """The pixels of an image file as the model's data had them, uint8 (H, W, 3).

    Raises:
        BadImage: it cannot be read.
    """
    try:
        return pixels_of(path.read_bytes(), policy)
    except OSError as error:
        raise BadImage(str(error.strerror)) from None


def read_ahead(load: Callable[[int], Sample], count: int) -> Iterator[tuple[int, Sample | BadImage]]:
    """Each of `count` images or rows with its number, or why it cannot be read, in order."""

    def attempt(number: int) -> tuple[int, Sample | BadImage]:
        try:
            return number, load(number)
        except BadImage as error:
            return number, error

    numbers = iter(range(count))
    with ThreadPoolExecutor(_THREADS, "slurmtune-images") as pool:
        while chunk := list(islice(numbers, _THREADS * _AHEAD)):
            yield from pool.map(attempt, chunk)


def open_labelled(place: Path, split: str | None, meta: Mapping[str, Any], policy: ImagePolicy) -> LabelledImages:
    """Images with labels at `place`: what prepare.py made, or anything that prepare.py reads.

    Raises:
        UsageError: no such split. DataError: classes that the model does not know, or nothing usable.
    """
    if (place / MANIFEST).is_file():
        return _from_shards(place, split, meta)
    columns = columns_of(meta)
    source = find_source(place, _options(place, meta, columns))
    listing = source.listing
    _require_task(place, listing.task, meta)
    chosen = [number for number, own in enumerate(listing.splits) if split is None or own == split]
    if not chosen:
        raise UsageError(f"{place} has no split {split!r}; leave --split out to take all of it.")
    labels = listing.labels[chosen]
    if listing.task == "classification":
        labels = _renumber(labels, listing.class_names, meta["class_names"], place)
    references = [listing.references[number] for number in chosen]
    names = [str(reference) for reference in references]
    load: Callable[[int], Sample] = lambda number: pixels_of(source.loader.load(references[number]), policy)  # noqa: E731
    if columns and listing.table:
        further = [[column[number] for number in chosen] for column in listing.table.further]
        cells = {name: [column[number] for number in chosen] for name, column in listing.table.cells.items()}
        load = TableRows(columns, [references, *further], cells, source.loader, policy, str(place)).load
    return LabelledImages(str(place), split or "", labels, names, load)


def _options(place: Path, meta: Mapping[str, Any], columns: Columns | None) -> SourceOptions | None:
    """How to read a source as the model's own was read.

    Raises:
        UsageError: the model takes a table, and this is none.
    """
    labels = tuple(meta.get("label_columns") or ("label",))
    if columns is None and place.suffix.lower() in TABLES:
        return SourceOptions(tuple(meta.get("image_columns") or ("image",)), labels, task=meta["task"])
    if columns is None:  # whatever a folder or zip file holds are classes
        return SourceOptions(task=meta["task"]) if place.suffix.lower() in HDF5_ENDINGS else None
    if place.suffix.lower() not in TABLES:
        raise UsageError(f"{place}: this model takes rows of a table; name a CSV file or what prepare.py made of one.")
    kinds = {**dict.fromkeys((n.name for n in columns.numerical), NUMERICAL),
             **dict.fromkeys((c.name for c in columns.categorical), CATEGORICAL)}  # fmt: skip
    return SourceOptions(columns.images, labels, None, columns.names, tuple(kinds.items()), task=meta["task"])


def _from_shards(place: Path, split: str | None, meta: Mapping[str, Any]) -> LabelledImages:
    there = describe(place).splits
    chosen = split or next((name for name in ("test", "validation") if there.get(name)), "train")
    shards = open_split(place, chosen)
    _require_task(place, shards.task, meta)
    labels = shards.labels
    if shards.task == "classification":
        labels = _renumber(labels, shards.class_names, meta["class_names"], place)
    names = [str(number) for number in shards.sample_ids.tolist()]
    return LabelledImages(str(place), chosen, labels, names, StoredSamples(shards, columns_of(meta)).load)


def _require_task(place: Path, task: str, meta: Mapping[str, Any]) -> None:
    if task != meta["task"]:
        raise DataError(f"{place} has labels for {task}, the model was trained for {meta['task']}; name other images.")


def _renumber(labels: np.ndarray, names: Sequence[str], known: Sequence[str], place: Path) -> np.ndarray:
    """Class numbers of the data as those of the model: by name, since another folder may hold fewer classes."""
    strange = next((names[number] for number in np.unique(labels) if names[number] not in known), None)
    if strange is not None:
        listed = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
        raise DataError(f"{place} has class {strange!r}, the model knows {listed}.{nearest(strange, known)}")
    numbers = {name: number for number, name in enumerate(known)}
    return np.array([numbers.get(name, -1) for name in names], np.int64)[labels]
