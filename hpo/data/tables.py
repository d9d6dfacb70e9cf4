"""The small datasets of a shard (offsets, labels, ids, checksums), read by offset and checked before use.

Offsets of None stand for a shard that was repacked: its datasets are read through HDF5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.data.columns import FIRST
from hpo.data.format import DTYPES, LABEL_DTYPES, RepackedError, dataset_name, locate_datasets, read_dataset
from hpo.data.manifest import Manifest, ShardRecord
from hpo.errors import DataError

Offsets = dict[str, int | None]


@dataclass(frozen=True)
class ShardTables:
    """Where each image of an image column lies in the file (of a repacked one: in its dataset), and what belongs to it.

    `state`: the file's size and mtime_ns. `begin`, `size`: uint64 (N,), bytes. `shapes`: uint16 (N, 3), height, width
    and channels, zeros where a row of a table has no image. `labels`: int64 (N,) or float32 (N, K).
    """

    path: Path
    state: tuple[int, int]
    begin: np.ndarray
    size: np.ndarray
    shapes: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    crc32: np.ndarray


def find_offsets(path: Path, record: ShardRecord) -> Offsets | None:
    """The place of each dataset: from the manifest if the file is as it was written, else from HDF5; None: repacked.

    Raises:
        DataError: the file is missing, or is not the shard of `record`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"shard {path} cannot be read: {error.strerror}; copy it again or run prepare.py anew."
        ) from None
    if (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns):
        return record.data_offset
    try:
        return locate_datasets(path, record)
    except RepackedError:
        return None


def read_tables(
    path: Path, record: ShardRecord, manifest: Manifest, offsets: Offsets | None, column: int = 0
) -> ShardTables:
    """Reads and checks the tables of a shard of at least one sample, those of its image column `column`.

    Raises:
        DataError: one that names the shard, and the sample where there is one to name.
    """
    count = record.num_samples
    label_shape = (count, manifest.num_classes) if manifest.task == "regression" else (count,)
    shapes = _read(path, offsets, dataset_name("shape", column), DTYPES["shape"], (count, 3))
    if manifest.encoding == "raw":
        begin, size = _raw_places(path, offsets, shapes, manifest, column)
    else:
        begin, size = _encoded_places(path, offsets, shapes, manifest, column)
    status = path.stat()
    beyond = begin + size > status.st_size
    if offsets is not None and beyond.any():
        raise DataError(f"shard {path} sample {int(beyond.argmax())} lies beyond the end of the file; copy it again.")
    labels = _read(path, offsets, "labels", LABEL_DTYPES[manifest.task], label_shape)
    _check_labels(path, labels, manifest)
    return ShardTables(
        path=path,
        state=(status.st_size, status.st_mtime_ns),
        begin=begin,
        size=size,
        shapes=shapes,
        labels=labels,
        sample_ids=_read(path, offsets, "sample_id", DTYPES["sample_id"], (count,)),
        crc32=_read(path, offsets, dataset_name("crc32", column), DTYPES["crc32"], (count,)),
    )


def read_cells(
    path: Path, record: ShardRecord, manifest: Manifest, offsets: Offsets | None
) -> tuple[np.ndarray, np.ndarray]:
    """The further columns of a shard's rows: numbers float64 (N, n), codes int32 (N, c).

    Raises:
        DataError: a code lies beyond its vocabulary; names the shard and the sample.
    """
    columns = manifest.columns or {}
    vocabularies = np.array([len(column["categories"]) for column in columns["categorical"]], np.int64)
    shape = (record.num_samples, len(columns["numerical"]))
    numbers = _read(path, offsets, "numbers", DTYPES["numbers"], shape)
    codes = _read(path, offsets, "categories", DTYPES["categories"], (record.num_samples, len(vocabularies)))
    wrong = ((codes < 0) | (codes >= FIRST + vocabularies)).any(axis=1)
    if wrong.any():
        sample = int(wrong.argmax())
        raise DataError(f"shard {path} sample {sample} has categories {codes[sample].tolist()}; copy the shard again.")
    return numbers, codes


def _read(path: Path, offsets: Offsets | None, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if offsets is None:
        return read_dataset(path, name, dtype, shape)
    wanted = int(np.prod(shape))
    if not wanted:  # a dataset without elements has no place in the file
        return np.zeros(shape, np.dtype(dtype))
    values = np.fromfile(path, np.dtype(dtype), wanted, offset=_start(path, offsets, name))
    if len(values) != wanted:
        raise DataError(f"shard {path} is cut short in {name!r}; copy it again.")
    return values.reshape(shape)


def _start(path: Path, offsets: Offsets | None, name: str) -> int:
    """The first byte of a dataset in its file; 0 in a repacked one, where places are counted within the dataset."""
    start = 0 if offsets is None else offsets.get(name)
    if start is None:
        raise DataError(f"shard {path} has no dataset {name!r}; copy it again or run prepare.py anew.")
    return start


def _encoded_places(
    path: Path, offsets: Offsets | None, shapes: np.ndarray, manifest: Manifest, column: int
) -> tuple[np.ndarray, np.ndarray]:
    bounds = _read(path, offsets, dataset_name("offsets", column), DTYPES["offsets"], (len(shapes) + 1,))
    sizes = bounds[1:].astype(np.int64) - bounds[:-1].astype(np.int64)
    falling = sizes <= 0  # an image of no bytes is as wrong
    if manifest.columns is not None:  # unless it is missing
        falling &= (sizes < 0) | shapes.any(axis=1)
    if bounds[0] != 0 or falling.any():
        raise DataError(f"shard {path} sample {int(falling.argmax())}: its offsets do not rise; copy the shard again.")
    start = _start(path, offsets, dataset_name("bytes", column)) if bounds[-1] else 0
    return bounds[:-1] + np.uint64(start), bounds[1:] - bounds[:-1]


def _raw_places(
    path: Path, offsets: Offsets | None, shapes: np.ndarray, manifest: Manifest, column: int
) -> tuple[np.ndarray, np.ndarray]:
    start = _start(path, offsets, dataset_name("images", column))
    expected = (*(manifest.image_size or ()), 3)
    different = (shapes != np.array(expected, np.uint16)).any(axis=1)
    if manifest.columns is not None:  # where an image may be missing
        different &= shapes.any(axis=1)
    if different.any():
        sample = int(different.argmax())
        raise DataError(f"shard {path} sample {sample} has shape {shapes[sample].tolist()}, not {list(expected)}.")
    each = int(np.prod(expected))
    begin = np.uint64(start) + np.arange(len(shapes), dtype=np.uint64) * np.uint64(each)
    return begin, np.full(len(shapes), each, np.uint64)


def _check_labels(path: Path, labels: np.ndarray, manifest: Manifest) -> None:
    if manifest.task == "regression":
        wrong = ~np.isfinite(labels).all(axis=1)
        allowed = "finite numbers"
    else:
        wrong = (labels < 0) | (labels >= manifest.num_classes)
        allowed = f"0 to {manifest.num_classes - 1}"
    if wrong.any():
        sample = int(wrong.argmax())
        raise DataError(f"shard {path} sample {sample} has label {labels[sample].tolist()}; expected {allowed}.")
