"""The small datasets of a shard (offsets, labels, ids, checksums), read by offset and checked before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.data.format import DTYPES, LABEL_DTYPES, locate_datasets
from hpo.data.manifest import Manifest, ShardRecord
from hpo.errors import DataError


@dataclass(frozen=True)
class ShardTables:
    """Where each image of a shard lies in the file, and what belongs to it.

    `begin`, `size`: uint64 (N,), bytes. `shapes`: uint16 (N, 3). `labels`: int64 (N,) or float32 (N, K).
    """

    path: Path
    begin: np.ndarray
    size: np.ndarray
    shapes: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    crc32: np.ndarray


def find_offsets(path: Path, record: ShardRecord) -> dict[str, int | None]:
    """The place of each dataset: from the manifest if the file is as it was written, else from HDF5.

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
    return locate_datasets(path, record)


def read_tables(path: Path, record: ShardRecord, manifest: Manifest, offsets: dict[str, int | None]) -> ShardTables:
    """Reads and checks the tables of a shard of at least one sample.

    Raises:
        DataError: one that names the shard, and the sample where there is one to name.
    """
    count = record.num_samples
    label_shape = (count, manifest.num_classes) if manifest.task == "regression" else (count,)
    shapes = _read(path, offsets, "shape", DTYPES["shape"], (count, 3))
    if manifest.encoding == "raw":
        begin, size = _raw_places(path, offsets, shapes, manifest)
    else:
        begin, size = _encoded_places(path, offsets, count)
    beyond = begin + size > path.stat().st_size
    if beyond.any():
        raise DataError(f"shard {path} sample {int(beyond.argmax())} lies beyond the end of the file; copy it again.")
    labels = _read(path, offsets, "labels", LABEL_DTYPES[manifest.task], label_shape)
    _check_labels(path, labels, manifest)
    return ShardTables(
        path=path,
        begin=begin,
        size=size,
        shapes=shapes,
        labels=labels,
        sample_ids=_read(path, offsets, "sample_id", DTYPES["sample_id"], (count,)),
        crc32=_read(path, offsets, "crc32", DTYPES["crc32"], (count,)),
    )


def _read(path: Path, offsets: dict[str, int | None], name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    start = offsets.get(name)
    wanted = int(np.prod(shape))
    if start is None:
        raise DataError(f"shard {path} has no dataset {name!r}; copy it again or run prepare.py anew.")
    values = np.fromfile(path, np.dtype(dtype), wanted, offset=start)
    if len(values) != wanted:
        raise DataError(f"shard {path} is cut short in {name!r}; copy it again.")
    return values.reshape(shape)


def _encoded_places(path: Path, offsets: dict[str, int | None], count: int) -> tuple[np.ndarray, np.ndarray]:
    bounds = _read(path, offsets, "offsets", DTYPES["offsets"], (count + 1,))
    falling = bounds[1:] <= bounds[:-1]  # an image of no bytes is as wrong
    if bounds[0] != 0 or falling.any():
        raise DataError(f"shard {path} sample {int(falling.argmax())}: its offsets do not rise; copy the shard again.")
    start = offsets.get("bytes")
    if start is None:
        raise DataError(f"shard {path} has no dataset 'bytes'; copy it again or run prepare.py anew.")
    return bounds[:-1] + np.uint64(start), bounds[1:] - bounds[:-1]


def _raw_places(
    path: Path, offsets: dict[str, int | None], shapes: np.ndarray, manifest: Manifest
) -> tuple[np.ndarray, np.ndarray]:
    start = offsets.get("images")
    if start is None or manifest.image_size is None:
        raise DataError(f"shard {path} has no dataset 'images'; copy it again or run prepare.py anew.")
    expected = (*manifest.image_size, 3)
    different = (shapes != np.array(expected, np.uint16)).any(axis=1)
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
