"""manifest.json: what a directory of shards holds, and where in each shard it lies.

Standard library only, because submit.py reads it at start-up. Workers that find a shard's size and modification time
as they are written here read it by offset, without libhdf5.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from hpo.errors import DataError
from hpo.layout import write_json

FORMAT = "hpoh5"
FORMAT_VERSION = 3
IMAGES_ONLY = 1  # the version of data without further columns, which older programs read too
WITH_TABLE = 2  # of rows of a table
LINKED = 3  # of images that stay in somebody else's HDF5 file
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
LINK = "link"  # the encoding of linked images: whatever the other file has
INDEX = "index.npz"  # of linked images: rows, splits and labels
HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")
WORK = ".prepare"  # what an unfinished prepare.py keeps there; gone when it is done

T = TypeVar("T")


@dataclass(frozen=True)
class ShardRecord:
    """One shard file: its name in the directory, its state when it was written, and the place of each dataset.

    `data_offset` maps a dataset's name to its first byte in the file (None for a dataset without elements).
    `payload_sha256` is the root attribute of that name, by which a copied shard is known again.
    """

    path: str
    split: str
    size: int
    mtime_ns: int
    sha256: str
    payload_sha256: str
    num_samples: int
    data_offset: dict[str, int | None]


@dataclass(frozen=True)
class Link:
    """Somebody else's HDF5 file of images and its state when it was linked. `key`: the dataset of images; `layout`: see
    hpo.data.hdf5_source; `index_sha256`: of INDEX, which says what of it belongs to which split."""

    path: str
    size: int
    mtime_ns: int
    key: str
    layout: str
    index_sha256: str

    def file(self, directory: Path) -> Path:
        """Where it is: beside the manifest, as in a node's copy, or where it was linked.

        Raises:
            DataError: it is gone, or not as it was.
        """
        beside = directory / Path(self.path).name
        found = beside if beside.is_file() else Path(self.path)
        try:
            status = found.stat()
        except OSError as error:
            raise DataError(f"{found}, linked by {directory}, cannot be read: {error.strerror}.") from None
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise DataError(
                f"{found} changed since {directory} linked it (size or modification time); put it back, or link it "
                "anew into another directory by prepare.py --link."
            )
        return found


@dataclass(frozen=True)
class DataSummary:
    """A data set in a few words.

    `num_classes` is the width of a model's last layer: classes, or label columns in regression (no class names then).
    `image_size` is (height, width) of raw images, None for encoded ones. `fingerprint` is the same wherever the
    data lies, whenever it was made and however it was cut into shards: it changes with images, labels, splits and their
    order only. `columns`: of rows of a table, see hpo.data.columns.Columns.to_json; None for images alone.
    """

    directory: Path
    task: str
    class_names: list[str]
    num_classes: int
    splits: dict[str, int]
    encoding: str
    image_size: tuple[int, int] | None
    fingerprint: str
    format_version: int
    num_shards: int
    num_bytes: int
    skipped: int
    duplicates_across_splits: int
    columns: dict[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    task: str
    class_names: list[str]
    num_classes: int
    splits: dict[str, int]
    encoding: str
    image_size: tuple[int, int] | None
    fingerprint: str
    source: dict[str, Any]
    skipped: int
    duplicates_across_splits: int
    shards: tuple[ShardRecord, ...]
    format_version: int = IMAGES_ONLY
    columns: dict[str, Any] | None = None
    link: Link | None = None

    @property
    def num_bytes(self) -> int:
        return self.link.size if self.link else sum(shard.size for shard in self.shards)


def describe(directory: str | Path) -> DataSummary:
    """What the data directory holds, read from its manifest alone.

    Raises:
        DataError: no such directory, no finished data in it, a damaged manifest, or one of a newer format; a linked
            file is gone or changed.
    """
    manifest = read_manifest(directory)
    if manifest.link:
        manifest.link.file(Path(directory))
    return DataSummary(
        directory=Path(directory),
        task=manifest.task,
        class_names=manifest.class_names,
        num_classes=manifest.num_classes,
        splits=manifest.splits,
        encoding=manifest.encoding,
        image_size=manifest.image_size,
        fingerprint=manifest.fingerprint,
        format_version=manifest.format_version,
        num_shards=len(manifest.shards),
        num_bytes=manifest.num_bytes,
        skipped=manifest.skipped,
        duplicates_across_splits=manifest.duplicates_across_splits,
        columns=manifest.columns,
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes manifest.json whole. It is the last file of a data directory: with it the data is complete."""
    values = asdict(manifest)
    for name in ("columns", "link"):
        if values[name] is None:
            del values[name]
    write_json(directory / MANIFEST, {"format": FORMAT, **values})


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of a data directory.

    Raises:
        DataError: as `describe`.
    """
    path = Path(directory) / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_why_missing(Path(directory))) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); restore it from a copy or run prepare.py anew.") from None
    try:
        return _parse(value, path)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path} is damaged ({reason}); restore it from a copy or run prepare.py anew.") from None


def _why_missing(directory: Path) -> str:
    if not directory.is_dir():
        return f"data directory {directory} does not exist; make it with `prepare.py IMAGES --out {directory}`."
    if (directory / WORK).is_dir():
        return f"{directory} is not finished; run the same prepare.py command again, it goes on where it stopped."
    return f"{directory} holds no data (it has no {MANIFEST}); name a directory that prepare.py wrote."


def _parse(value: Any, path: Path) -> Manifest:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"it does not say format {FORMAT!r}")
    version = _field(value, "format_version", int)
    if version > FORMAT_VERSION:
        raise DataError(f"{path} is of format {version}, this program reads {FORMAT_VERSION}; use a newer slurmtune.")
    manifest = Manifest(
        task=_one_of(value, "task", ("classification", "regression")),
        class_names=_list_of(value, "class_names", str),
        num_classes=_field(value, "num_classes", int),
        splits={split: _field(_field(value, "splits", dict), split, int) for split in SPLITS},
        encoding=_one_of(value, "encoding", ("jpeg", "raw", LINK)),
        image_size=_image_size(value),
        fingerprint=_field(value, "fingerprint", str),
        source=_field(value, "source", dict),
        skipped=_field(value, "skipped", int),
        duplicates_across_splits=_field(value, "duplicates_across_splits", int),
        shards=tuple(_shard(shard) for shard in _list_of(value, "shards", dict)),
        format_version=version,
        columns=_columns(value) if "columns" in value else None,
        link=_link(value) if "link" in value else None,
    )
    _require_consistent(manifest)
    return manifest


def _require_consistent(manifest: Manifest) -> None:
    for split, count in manifest.splits.items():
        found = sum(shard.num_samples for shard in manifest.shards if shard.split == split)
        if found != count and not manifest.link:
            raise ValueError(f"split {split!r} has {count} samples, its shards have {found}")
    if (manifest.encoding == LINK) != (manifest.link is not None):
        raise ValueError(f"encoding {manifest.encoding!r} and 'link' do not agree")
    if manifest.encoding == "raw" and manifest.image_size is None:
        raise ValueError("raw images without 'image_size'")
    if manifest.task == "classification" and len(manifest.class_names) != manifest.num_classes:
        raise ValueError(f"{manifest.num_classes} classes, {len(manifest.class_names)} class names")


def _shard(value: dict[str, Any]) -> ShardRecord:
    name = _field(value, "path", str)
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"shard path {name!r} leads out of the directory")
    offsets = _field(value, "data_offset", dict)
    if not all(offset is None or (type(offset) is int and offset >= 0) for offset in offsets.values()):
        raise ValueError(f"'data_offset' of {name} is {offsets!r}")
    return ShardRecord(
        path=name,
        split=_one_of(value, "split", SPLITS),
        size=_field(value, "size", int),
        mtime_ns=_field(value, "mtime_ns", int),
        sha256=_field(value, "sha256", str),
        payload_sha256=_field(value, "payload_sha256", str),
        num_samples=_field(value, "num_samples", int),
        data_offset=offsets,
    )


def _link(value: dict[str, Any]) -> Link:
    link = _field(value, "link", dict)
    kinds: dict[str, type] = {"path": str, "size": int, "mtime_ns": int, "key": str, "layout": str, "index_sha256": str}
    return Link(**{name: _field(link, name, kind) for name, kind in kinds.items()})


def _columns(value: dict[str, Any]) -> dict[str, Any]:
    columns = _field(value, "columns", dict)
    _list_of(columns, "images", str)
    for kind in ("numerical", "categorical"):
        for column in _list_of(columns, kind, dict):
            _field(column, "name", str)
    return columns


def _image_size(value: dict[str, Any]) -> tuple[int, int] | None:
    if value["image_size"] is None:
        return None
    height, width = _list_of(value, "image_size", int)
    return height, width


def _field(value: dict[str, Any], key: str, kind: type[T]) -> T:
    found = value[key]
    if type(found) is not kind or (isinstance(found, int) and found < 0):
        raise ValueError(f"{key!r} is {found!r:.60}, not a valid {kind.__name__}")
    return found


def _list_of(value: dict[str, Any], key: str, kind: type[T]) -> list[T]:
    found = _field(value, key, list)
    if not all(type(item) is kind for item in found):
        raise ValueError(f"{key!r} holds something that is no {kind.__name__}")
    return found


def _one_of(value: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    found = _field(value, key, str)
    if found not in known:
        raise ValueError(f"{key!r} is {found!r}, not one of {', '.join(known)}")
    return found
