"""Images in any form, brought once into shards that all trials read: a directory named by what is in it.

The name is a checksum of every image's content, its label and its split. The same table again, or a copy elsewhere,
finds what is there; a changed label or image makes a new directory. Held-out rows are drawn by content too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpo.data.folder_source import FileLoader
from hpo.data.images import BadImage
from hpo.data.listener import Progress, Tell
from hpo.data.listing import NO_IMAGE, Listing, Loader, Reference, Source, Table
from hpo.data.manifest import MANIFEST, SPLITS
from hpo.data.plan import Recipe
from hpo.data.pool import available_cpus
from hpo.data.split import Shares, assign_splits
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError
from hpo.predictor.labels import Labels
from hpo.predictor.samples import Content, Samples

_FORMAT = 1  # of the checksum


@dataclass(frozen=True)
class _Part:
    samples: Samples
    labels: np.ndarray
    digests: list[str]
    sizes: list[int]
    splits: Sequence[str]


def materialise(
    train: Samples,
    tuning: Samples | None,
    labels: Labels,
    holdout: float | None,
    seed: int,
    folder: Path,
    tell: Tell,
    progress: Progress,
) -> Path:
    """The data directory below `folder` with these images; made if it is not there.

    Args:
        tuning: validation images; without them, and without splits in `train`, the share `holdout` of train is drawn
            (None: AutoMM's, by the number of rows).
    Raises:
        DataError: a label is missing or unknown, or nothing can be read. UsageError: `holdout` is no share.
    """
    parts = [_read(train, labels, "train", progress)]
    if tuning is not None:
        parts = [_read_as(train, labels, "train", progress), _read_as(tuning, labels, "validation", progress)]
    listing, loaders = _join(parts, labels)
    listing = _hold_out(listing, parts, holdout, seed)
    if not {"train", "validation"} <= set(listing.splits):
        raise DataError(f"{train.name} leaves no rows to train or to validate on; give more rows or tuning_data.")
    out = folder / f"{'rows' if listing.table else 'images'}-{_checksum(listing, parts)[:12]}"
    if (out / MANIFEST).is_file():
        tell(f"data {out} is there already")
        return out
    counts = ", ".join(f"{listing.splits.count(split)} {split}" for split in SPLITS if split in listing.splits)
    tell(f"data {out}: {counts}")
    source = Source("table", train.name, listing, loaders, {}, tuple(train.notes))

    def warn(message: str) -> None:
        if message.startswith("warning"):  # the rest is said above, by the words of this room
            tell(message)

    recipe = Recipe(shares=Shares(0, 0))
    prepare(source, out, recipe, available_cpus(), threads=True, tell=warn, progress=progress)
    return out


def default_holdout(rows: int) -> float:
    """AutoMM's share of rows to validate on."""
    if rows < 5000:
        return max(0.1, min(0.2, 500 / rows))
    return max(0.01, min(0.1, 2500 / rows))


def _read(samples: Samples, labels: Labels, split: str, progress: Progress) -> _Part:
    """A training table; splits that its source has are kept."""
    if samples.labels is None:
        raise UsageError(f"{samples.name} has no label column; name it by MultiModalPredictor(label=...).")
    digests, sizes = [], []
    for row, contents in enumerate(samples.contents()):
        digests.append(" ".join(_digest(content) for content in contents) + _cells(samples.table, row))
        sizes.append(sum(_size(content) for content in contents))
        progress(row + 1, len(samples), "rows read" if samples.table else "images read", "")
    splits = [given or split for given in samples.splits]
    return _Part(samples, labels.encode(samples.labels, samples.name), digests, sizes, splits)


def _read_as(samples: Samples, labels: Labels, split: str, progress: Progress) -> _Part:
    """A table of which every row belongs to one split."""
    part = _read(samples, labels, split, progress)
    return replace(part, splits=[split] * len(samples))


def _digest(content: Content) -> str:
    if content is None or isinstance(content, BadImage):
        return "missing" if content is None else "unreadable"
    data = (
        content
        if isinstance(content, bytes)
        else repr(content.shape).encode() + np.ascontiguousarray(content).tobytes()
    )
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _cells(table: Table | None, row: int) -> str:
    return repr([cells[row] for cells in table.cells.values()]) if table else ""


def _size(content: Content) -> int:
    if content is None or isinstance(content, BadImage):
        return 0
    return len(content) if isinstance(content, bytes) else content.nbytes


@dataclass(frozen=True)
class _Loaders:
    """Reads from several tables; a reference is a place in `entries`."""

    entries: list[tuple[Loader, Reference]]

    def load(self, reference: Reference) -> bytes | np.ndarray:
        loader, inner = self.entries[int(reference)]
        return loader.load(inner)


def _join(parts: list[_Part], labels: Labels) -> tuple[Listing, Loader]:
    tables = [part.samples for part in parts]
    loader, images = _join_images(tables)
    listing = Listing(
        references=images[0],
        task=labels.task,
        labels=np.concatenate([part.labels for part in parts]),
        class_names=[str(name) for name in labels.classes],
        splits=[split for part in parts for split in part.splits],
        sizes=np.array([size for part in parts for size in part.sizes], np.int64),
        table=_join_tables([table.table for table in tables if table.table], images[1:]),
    )
    return listing, loader


def _join_images(tables: list[Samples]) -> tuple[Loader, list[list[Reference]]]:
    """One loader, and for each image column the references of all tables."""
    same = all(table.loader == tables[0].loader and isinstance(table.loader, FileLoader) for table in tables)
    entries: list[tuple[Loader, Reference]] = []
    images: list[list[Reference]] = []
    for column in range(len(tables[0].images)):
        images.append([])
        for table in tables:
            for reference in table.images[column]:
                gap = table.table is not None and reference == NO_IMAGE
                images[-1].append(reference if same or gap else len(entries))
                if not (same or gap):
                    entries.append((table.loader, reference))
    return tables[0].loader if same else _Loaders(entries), images


def _join_tables(tables: list[Table], further: list[list[Reference]]) -> Table | None:
    if not tables:
        return None
    first = tables[0]
    cells = {name: [cell for table in tables for cell in table.cells[name]] for name in first.kinds}
    return Table(first.images, further, first.kinds, cells)


def _hold_out(listing: Listing, parts: list[_Part], holdout: float | None, seed: int) -> Listing:
    """The listing with a validation split: what it has, else drawn from train by the images' content."""
    if "validation" in listing.splits:
        return listing
    rows = sum(split == "train" for split in listing.splits)
    share = default_holdout(max(1, rows)) if holdout is None else holdout
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UsageError(f"holdout_frac must lie between 0 and 1, got {share!r}.")
    by_content = replace(listing, references=[digest for part in parts for digest in part.digests])
    codes, _ = assign_splits(by_content, Shares(share, 0), seed)
    return replace(listing, splits=[SPLITS[code] for code in codes])


def _checksum(listing: Listing, parts: list[_Part]) -> str:
    columns = (tuple(listing.table.images), listing.table.kinds) if listing.table else ()
    what = (_FORMAT, listing.task, listing.class_names, Recipe().policy, *columns)
    checksum = hashlib.sha256(repr(what).encode())
    digests = (digest for part in parts for digest in part.digests)
    for digest, split, label in zip(digests, listing.splits, listing.labels, strict=True):
        checksum.update(f"{digest} {split} ".encode() + label.tobytes())
    return checksum.hexdigest()
