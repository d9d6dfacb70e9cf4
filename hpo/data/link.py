"""Makes somebody else's HDF5 file known to trials as it is: labels and splits are written down, no image is copied.

DATA/manifest.json   as of shards, with a `link` instead: the file, its size and its modification time
DATA/index.npz       rows uint64 (N,), splits int8 (N,) as places in SPLITS, labels int64 (N,) or float32 (N, K)
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.hdf5_source import Hdf5Loader, image_shape
from hpo.data.listener import Tell, be_quiet
from hpo.data.listing import Source
from hpo.data.manifest import (
    INDEX,
    LINK,
    LINKED,
    MANIFEST,
    SPLITS,
    DataSummary,
    Link,
    Manifest,
    describe,
    read_manifest,
    write_manifest,
)
from hpo.data.split import TRAIN, Shares, assign_splits
from hpo.errors import DataError, UsageError
from hpo.layout import write_bytes


@dataclass(frozen=True)
class Index:
    rows: np.ndarray
    splits: np.ndarray
    labels: np.ndarray


def link_file(source: Source, out: Path, shares: Shares, seed: int, tell: Tell = be_quiet) -> DataSummary:
    """Writes the data directory `out` for the images of `source`, or finds it there.

    Raises:
        UsageError: `source` is no HDF5 file, or `out` holds something else.
        DataError: nothing to train on.
    """
    if not isinstance(source.loader, Hdf5Loader):
        raise UsageError(f"--link is for an HDF5 file of images; {source.path} is none, leave --link out.")
    codes, how = assign_splits(source.listing, shares, seed)
    for note in (*source.notes, how):
        tell(note)
    if not (codes == TRAIN).any():
        raise DataError(f"{source.path} has no image in split 'train'.")
    listing, loader = source.listing, source.loader
    index = io.BytesIO()
    np.savez(index, rows=np.arange(len(listing), dtype=np.uint64), splits=codes, labels=listing.labels)
    status = Path(source.path).stat()
    link = Link(source.path, status.st_size, status.st_mtime_ns, loader.key, loader.layout,
                hashlib.sha256(index.getvalue()).hexdigest())  # fmt: skip
    shape = image_shape(loader)
    manifest = Manifest(
        task=listing.task,
        class_names=listing.class_names,
        num_classes=listing.num_classes,
        splits={split: int((codes == code).sum()) for code, split in enumerate(SPLITS)},
        encoding=LINK,
        image_size=shape,
        fingerprint=_fingerprint(source, codes, link),
        source=_identity(source, shares, seed),
        skipped=0,
        duplicates_across_splits=0,
        shards=(),
        format_version=LINKED,
        link=link,
    )
    if not _is_there(out, manifest):
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / INDEX, index.getvalue())
        write_manifest(out, manifest)
    return describe(out)


def read_index(directory: Path, link: Link) -> Index:
    """
    Raises:
        DataError: it is gone or damaged.
    """
    path = directory / INDEX
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; link the file anew.") from None
    if hashlib.sha256(content).hexdigest() != link.index_sha256:
        raise DataError(f"{path} is damaged (sha256); copy it again, or link the file anew.")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Index(arrays["rows"], arrays["splits"], arrays["labels"])


def _is_there(out: Path, manifest: Manifest) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out} holds something else; give a new or empty directory to --out.")
    there = read_manifest(out)
    if there.fingerprint != manifest.fingerprint or there.link != manifest.link:
        raise UsageError(f"{out} holds other data or splits; give another --out, or remove the directory.")
    return True


def _identity(source: Source, shares: Shares, seed: int) -> dict[str, Any]:
    recipe = {"--encoding": LINK, "--size": None, "--max-side": None, "--seed": seed,
              "--validation": shares.validation, "--test": shares.test}  # fmt: skip
    return {"kind": LINK, "path": source.path, "images": len(source.listing), "options": {**source.options, **recipe}}


def _fingerprint(source: Source, codes: np.ndarray, link: Link) -> str:
    """Of labels and splits, and of the file's size and time, for its images are not read."""
    what = {"task": source.listing.task, "class_names": source.listing.class_names, "encoding": LINK,
            "key": link.key, "size": link.size, "mtime_ns": link.mtime_ns}  # fmt: skip
    checksum = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    checksum.update(codes.tobytes())
    checksum.update(np.ascontiguousarray(source.listing.labels).tobytes())
    return checksum.hexdigest()
