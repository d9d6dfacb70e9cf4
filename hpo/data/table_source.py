"""Images named in a CSV file, with their labels and perhaps their splits in other columns."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hpo.data.folder_source import FileLoader
from hpo.data.listing import Listing, Source, encode_labels, split_of
from hpo.errors import DataError, UsageError, nearest


def from_table(
    path: Path, image_column: str, label_columns: list[str], split_column: str | None, task: str | None
) -> Source:
    """Lists the rows of a CSV file (comma, semicolon or tab, whichever the header has most of).

    Image paths are relative to the file. `task` None: told from the labels (see encode_labels).

    Raises:
        UsageError: a column that is not there.
        DataError: an unreadable file, a row without image or label, an unknown split, or no image found at all.
    """
    rows = _read(path, [image_column, *label_columns, *([split_column] if split_column else [])])
    where = [f"{path} row {number}" for number, _ in rows]
    images = [row[image_column] for _, row in rows]
    if "" in images:
        raise DataError(f"{where[images.index('')]} names no image; complete it or remove the row.")
    columns = [[row[column] for _, row in rows] for column in label_columns]
    decided, labels, names = encode_labels(columns, task, where)
    splits: list[str | None] = [None] * len(rows)
    if split_column:
        splits = [_split(row[split_column], place) for (_, row), place in zip(rows, where, strict=True)]
    listing = Listing(images, decided, labels, names, splits, _sizes(path, images))
    how = "given" if task else "told from the labels; --task says otherwise"
    options = {"--image-column": image_column, "--label-column": label_columns, "--split-column": split_column}
    loader = FileLoader(str(path.absolute().parent))
    return Source("csv", str(path.absolute()), listing, loader, options, (f"task: {decided} ({how}).",))


def _read(path: Path, wanted: list[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, {column: text without blanks around it}) of each row that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=max(",;\t", key=header.count), restval="")
            known = [name for name in reader.fieldnames or [] if name]
            for column in wanted:
                if column not in known:
                    raise UsageError(
                        f"{path} has no column {column!r}; it has {', '.join(map(repr, known))}."
                        f"{nearest(column, known)} See --image-column, --label-column and --split-column."
                    )
            rows = [(reader.line_num, {name: row[name].strip() for name in wanted}) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None
    if not rows:
        raise DataError(f"{path} has a header and no rows.")
    return rows


def _split(text: str, place: str) -> str:
    found = split_of(text)
    if found is None:
        names = ("train", "validation", "test")
        raise DataError(f"{place} has split {text!r}; known are {', '.join(names)}.{nearest(text, names)}")
    return found


def _sizes(path: Path, images: list[str]) -> np.ndarray:
    """Bytes of each file, 0 for one that is not there (it will be listed as skipped)."""
    sizes = np.zeros(len(images), np.int64)
    for i, image in enumerate(images):
        try:
            sizes[i] = (path.parent / image).stat().st_size
        except (OSError, ValueError):
            continue
    if not sizes.any():
        raise DataError(
            f"none of the {len(images)} images that {path} names exists; the first is {images[0]!r}, "
            f"looked for in {path.parent} (paths are relative to the CSV file)."
        )
    return sizes
