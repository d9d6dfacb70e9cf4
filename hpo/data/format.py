"""Shard format 1, 'hpoh5': one HDF5 file whose datasets any reader can find by offset, without libhdf5.

    /bytes      u1  (B,)          encoded images, one after the other   \\ encoding 'jpeg'
    /offsets    u8  (N + 1,)      image i is bytes[offsets[i]:offsets[i + 1]]  /
    /images     u1  (N, H, W, 3)  encoding 'raw', instead of the two above
    /shape      u2  (N, 3)        height, width, channels of each image as stored
    /labels     i8  (N,)          class numbers; or f4 (N, K) in regression
    /sample_id  u8  (N,)          position in the source's listing, over all splits
    /crc32      u4  (N,)          zlib.crc32 of each stored image

Format 2 is that, of rows of a table with further columns; shards of images alone stay of format 1:
    /numbers    f8  (N, n)        numerical columns as they are, NaN where missing
    /categories i4  (N, c)        codes by the vocabularies in the manifest, see hpo.data.columns
    /bytes_1, /offsets_1 or /images_1, /shape_1, /crc32_1    the second image column, and so on
There an image may be missing: it has no bytes (raw: zeros) and the shape (0, 0, 0).

Contiguous, unfiltered, little-endian, allocated early, what is larger than 64 KiB aligned to 1 MiB (a Lustre stripe),
and readable by every HDF5 since 1.10. The root attributes describe the file; `complete` is the last one written, and
`payload_sha256` covers the images followed by the labels. HDF5 is opened here and nowhere else: two opens of one file
with different `locking` fail, and file systems without flock refuse the default.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpo.data.convert import Converted, StoredImages, joined
from hpo.data.manifest import FORMAT, FORMAT_VERSION, IMAGES_ONLY, WITH_TABLE, ShardRecord
from hpo.errors import DataError


class RepackedError(DataError):
    """A shard whose datasets are not contiguous any more."""


WRITER = "slurmtune"
_ALIGN_ABOVE, _ALIGN_TO = 64 * 1024, 1024 * 1024
_CHUNK_CACHE = 64 * 1024 * 1024  # foreign files: a chunk of many images is decompressed once, not once per image
DTYPES = {"bytes": "u1", "offsets": "<u8", "images": "u1", "shape": "<u2", "sample_id": "<u8", "crc32": "<u4",
          "numbers": "<f8", "categories": "<i4"}  # fmt: skip
LABEL_DTYPES = {"classification": "<i8", "regression": "<f4"}


@dataclass(frozen=True)
class ShardHeader:
    """What the root attributes of a shard say, less its counts and checksum."""

    encoding: str
    split: str
    shard_index: int
    num_shards: int
    num_classes: int
    class_names: list[str]
    source: dict[str, Any]
    has_table: bool = False


@dataclass(frozen=True)
class WrittenShard:
    payload_sha256: str
    data_offset: dict[str, int | None]


def open_hdf5(path: Path, mode: str = "r") -> h5py.File:
    """An HDF5 file, to be closed by the caller.

    Raises:
        DataError: missing, unreadable, truncated or not HDF5.
    """
    extra: dict[str, Any] = {"rdcc_nbytes": _CHUNK_CACHE}
    if mode == "w":
        extra = {"libver": ("earliest", "v110"), "alignment_threshold": _ALIGN_ABOVE, "alignment_interval": _ALIGN_TO}
    try:
        return h5py.File(path, mode, locking=False, **extra)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened as HDF5 ({_first_line(error)}).") from None


def dataset_name(kind: str, column: int) -> str:
    """Where `kind` ('bytes', 'shape', ...) of image column `column` is kept."""
    return f"{kind}_{column}" if column else kind


def write_shard(
    path: Path, header: ShardHeader, parts: Sequence[Converted], rows: dict[str, np.ndarray]
) -> WrittenShard:
    """Writes one shard to `path`, in place; the caller syncs and renames it.

    Args:
        parts: the images in order; rows: of the same order, labels (N,) or (N, K), and for rows of a table numbers and
            categories.
    """
    datasets: dict[str, np.ndarray] = {}
    payloads: dict[str, list[StoredImages]] = {}
    for column in range(len(parts[0].columns)):
        images = [part.columns[column] for part in parts]
        datasets[dataset_name("shape", column)] = joined(images, "shapes")
        if column == 0:
            datasets |= {"labels": rows["labels"], "sample_id": np.concatenate([part.ids for part in parts])}
        datasets[dataset_name("crc32", column)] = joined(images, "crc32")
        if header.encoding != "raw":
            ends = np.cumsum(joined(images, "sizes"), dtype=np.uint64)
            datasets[dataset_name("offsets", column)] = np.concatenate([np.zeros(1, np.uint64), ends])
        payloads[dataset_name("images" if header.encoding == "raw" else "bytes", column)] = images
    datasets |= rows
    checksum = _payload_sha256(payloads.values(), rows)
    with open_hdf5(path, "w") as file:
        offsets = {
            name: _write_payload(_create(file, name, _payload_shape(header, images), "u1"), images)
            for name, images in payloads.items()
        }
        for name, values in datasets.items():
            known = DTYPES.get(name.partition("_")[0] if name != "sample_id" else name)
            dataset = _create(file, name, values.shape, known or values.dtype.newbyteorder("<").str)
            if values.size:
                dataset[...] = values
            offsets[name] = dataset.id.get_offset()
        _write_attributes(file, header, len(rows["labels"]), checksum)
    return WrittenShard(checksum, offsets)


def _payload_shape(header: ShardHeader, images: Sequence[StoredImages]) -> tuple[int, ...]:
    sizes = joined(images, "sizes")
    if header.encoding != "raw":
        return (int(sizes.sum()),)
    side = math.isqrt(int(sizes[0]) // 3) if len(sizes) else 1
    return (len(sizes), side, side, 3)


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    """A contiguous dataset with its space allocated now: only then has it an offset."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # equal content gives equal files
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(np.dtype(dtype))
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, properties))


def _write_payload(dataset: h5py.Dataset, parts: Sequence[StoredImages]) -> int | None:
    start = 0
    for part in parts:
        if not part.payload:
            continue
        values = np.frombuffer(part.payload, np.uint8)
        if dataset.ndim > 1:
            values = values.reshape(-1, *dataset.shape[1:])
        dataset[start : start + len(values)] = values
        start += len(values)
    return dataset.id.get_offset()


def _payload_sha256(columns: Iterable[Sequence[StoredImages]], rows: dict[str, np.ndarray]) -> str:
    checksum = hashlib.sha256()
    for images in columns:
        for part in images:
            checksum.update(part.payload)
    for values in rows.values():
        checksum.update(np.ascontiguousarray(values).tobytes())
    return checksum.hexdigest()


def _write_attributes(file: h5py.File, header: ShardHeader, num_samples: int, checksum: str) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = WITH_TABLE if header.has_table else IMAGES_ONLY
    file.attrs["encoding"] = header.encoding
    file.attrs["split"] = header.split
    file.attrs["shard_index"] = header.shard_index
    file.attrs["num_shards"] = header.num_shards
    file.attrs["num_samples"] = num_samples
    file.attrs["num_classes"] = header.num_classes
    file.attrs["class_names"] = json.dumps(header.class_names)
    file.attrs["color"] = "RGB"
    file.attrs["source"] = json.dumps(header.source)
    file.attrs["writer"] = WRITER
    file.attrs["payload_sha256"] = checksum
    file.flush()
    file.attrs["complete"] = 1


def locate_datasets(path: Path, record: ShardRecord) -> dict[str, int | None]:
    """The offset of each dataset of a shard whose size or time is not the manifest's: a copy, or something else.

    Raises:
        RepackedError: it is the shard that `record` describes, but cannot be read by offset.
        DataError: it is another, or damaged.
    """
    with open_hdf5(path) as file:
        try:
            _require_same(file, record, path)
            return {name: _contiguous_offset(file[name], path) for name in record.data_offset}
        except (KeyError, OSError, RuntimeError) as error:
            raise DataError(f"shard {path} is damaged ({_first_line(error)}); copy it again.") from None


def read_dataset(path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A whole dataset, however it is stored.

    Raises:
        DataError: it is missing, of another type or shape, or damaged.
    """
    with open_hdf5(path) as file:
        try:
            values = file[name][...]
        except (KeyError, OSError, RuntimeError) as error:
            raise DataError(f"shard {path} is damaged ({_first_line(error)}); copy it again.") from None
    if values.shape != shape or values.dtype != np.dtype(dtype):
        raise DataError(f"shard {path}: {name!r} is {values.dtype} {values.shape}; copy it again.")
    return values


def _require_same(file: h5py.File, record: ShardRecord, path: Path) -> None:
    if file.attrs.get("format") != FORMAT or file.attrs.get("complete") != 1:
        raise DataError(f"{path} is not a complete shard of format {FORMAT!r}; copy it again or run prepare.py anew.")
    if file.attrs["format_version"] > FORMAT_VERSION:
        raise DataError(f"{path} is of format {file.attrs['format_version']}; use a newer slurmtune.")
    same = file.attrs["payload_sha256"] == record.payload_sha256 and file.attrs["num_samples"] == record.num_samples
    if not same:
        raise DataError(f"{path} is another shard than its manifest describes; copy the whole data directory again.")


def _contiguous_offset(dataset: h5py.Dataset, path: Path) -> int | None:
    if dataset.chunks is not None:
        raise RepackedError(
            f"{path} was repacked ({dataset.name} is chunked); copy the original or run prepare.py anew."
        )
    return dataset.id.get_offset()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
