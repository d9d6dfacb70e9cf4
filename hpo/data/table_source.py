"""Images named in a CSV file, with their labels, perhaps their splits, and further columns to model beside them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.cells import clean, settle_kinds
from hpo.data.folder_source import FileLoader
from hpo.data.listing import Listing, Source, Table, encode_labels, split_of
from hpo.errors import DataError, UsageError, nearest

ALL = "all"  # instead of names: every column that is nothing else


@dataclass(frozen=True)
class TableOptions:
    """Which columns of a CSV file are what. `columns`: further ones to model, or ALL; `types`: what some of them are,
    where that is not to be found (see hpo.data.cells). `task` None: told from the labels."""

    images: tuple[str, ...] = ("image",)
    labels: tuple[str, ...] = ("label",)
    split: str | None = None
    task: str | None = None
    columns: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()

    @property
    def has_table(self) -> bool:
        return len(self.images) > 1 or bool(self.columns)


def from_table(path: Path, options: TableOptions) -> Source:
    """Lists the rows of a CSV file (comma, semicolon or tab, whichever the header has most of).

    Image paths are relative to the file.

    Raises:
        UsageError: a column that is not there or cannot be modelled.
        DataError: an unreadable file, a row without image or label, an unknown split, or no image found at all.
    """
    header, rows = read_csv(path, lambda known: _wanted(path, options, known))
    where = [f"{path} row {number}" for number, _ in rows]
    images = [[row[column] for _, row in rows] for column in options.images]
    if not options.has_table and "" in images[0]:
        raise DataError(f"{where[images[0].index('')]} names no image; complete it or remove the row.")
    labels_by_column = [[row[column] for _, row in rows] for column in options.labels]
    decided, labels, names = encode_labels(labels_by_column, options.task, where)
    splits: list[str | None] = [None] * len(rows)
    if options.split:
        splits = [_split(row[options.split], place) for (_, row), place in zip(rows, where, strict=True)]
    table, notes = _further(options, header, rows, images)
    listing = Listing(images[0], decided, labels, names, splits, _sizes(path, images), table)
    how = "given" if options.task else "told from the labels; --task says otherwise"
    loader = FileLoader(str(path.absolute().parent))
    told = (f"task: {decided} ({how}).", *notes)
    return Source("csv", str(path.absolute()), listing, loader, _options(options), told)


def _options(options: TableOptions) -> dict[str, Any]:
    """By the names that a person gave them."""
    images = options.images[0] if len(options.images) == 1 else list(options.images)
    said = {"--image-column": images, "--label-column": list(options.labels), "--split-column": options.split}
    if options.has_table:
        said |= {"--columns": list(options.columns), "--column-type": [f"{n}={kind}" for n, kind in options.types]}
    return said


def _further(
    options: TableOptions, header: list[str], rows: list[tuple[int, dict[str, str]]], images: list[list[str]]
) -> tuple[Table | None, list[str]]:
    """The further columns, and what is to be said of them."""
    taken = {*options.images, *options.labels, options.split}
    others = [name for name in header if name not in taken]
    if not options.has_table:
        listed = ", ".join(map(repr, others))
        return None, [f"not modelled: {listed}; --columns takes such beside the images."] if others else []
    wanted = others if options.columns == (ALL,) else list(options.columns)
    cells = {name: [clean(row[name]) for _, row in rows] for name in wanted}
    kinds, notes = settle_kinds(cells, dict(options.types), "--column-type {name}=null")
    if not kinds and len(images) == 1:
        raise UsageError(f"--columns: {'; '.join(notes) or 'no column is left'} Leave --columns out.")
    said = ", ".join(f"{name!r} {kind}" for name, kind in kinds.items()) or "none"
    notes.append(f"beside the images: {said}; --column-type says otherwise.")
    return Table(options.images, images[1:], kinds, {name: cells[name] for name in kinds}), notes


def delimiter_of(header: str) -> str:
    """What separates the columns: of comma, semicolon, tab and bar the one that is most in a table's first line."""
    return max(",;\t|", key=header.count)


def read_csv(
    path: Path, choose: Callable[[list[str]], list[str]]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns; (line, {column: text without blanks around it}) of each row that is not empty.

    Args:
        choose: which of the columns to read, of those that there are.
    Raises:
        DataError: it cannot be read, or has no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=delimiter_of(header), restval="")
            known = [name for name in reader.fieldnames or [] if name]
            wanted = choose(known)
            twice = next((name for name in wanted if known.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{path} has several columns {twice!r}; rename them, or keep one.")
            rows = [(reader.line_num, {name: row[name].strip() for name in wanted}) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None
    if not rows:
        raise DataError(f"{path} has a header and no rows.")
    return known, rows


def _wanted(path: Path, options: TableOptions, known: list[str]) -> list[str]:
    """The columns to read.

    Raises:
        UsageError: one of them is not there, or has two roles.
    """
    roles = [*options.images, *options.labels, *([options.split] if options.split else [])]
    further = [name for name in known if name not in roles] if options.columns == (ALL,) else list(options.columns)
    for column in (*roles, *further, *(name for name, _ in options.types)):
        if column not in known:
            raise UsageError(
                f"{path} has no column {column!r}; it has {', '.join(map(repr, known))}."
                f"{nearest(column, known)} See --image-column, --label-column, --split-column and --columns."
            )
    wanted = [*roles, *further]
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None and (further or len(options.images) > 1):
        raise UsageError(
            f"column {twice!r} is named twice; a column is an image, the label, the split or a further one."
        )
    stray = next((name for name, _ in options.types if name not in further), None)
    if stray is not None:
        raise UsageError(f"--column-type {stray}=...: {stray!r} is none of --columns; name it there too.")
    return wanted


def _split(text: str, place: str) -> str:
    found = split_of(text)
    if found is None:
        names = ("train", "validation", "test")
        raise DataError(f"{place} has split {text!r}; known are {', '.join(names)}.{nearest(text, names)}")
    return found


def _sizes(path: Path, columns: list[list[str]]) -> np.ndarray:
    """Bytes of each row's files, 0 for one that is not there (it will be listed as skipped)."""
    sizes = np.zeros(len(columns[0]), np.int64)
    for images in columns:
        for i, image in enumerate(images):
            try:
                sizes[i] += (path.parent / image).stat().st_size if image else 0
            except (OSError, ValueError):
                continue
    if not sizes.any():
        images = columns[0]
        raise DataError(
            f"none of the {len(images)} images that {path} names exists; the first is {images[0]!r}, "
            f"looked for in {path.parent} (paths are relative to the CSV file)."
        )
    return sizes
