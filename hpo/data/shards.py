"""The samples of one split over all of its shards, by number. Reading is pread and mmap; libhdf5 is left out."""

from __future__ import annotations

import bisect
import errno
import os
import resource
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.manifest import read_manifest
from hpo.data.tables import ShardTables, find_offsets, read_tables
from hpo.errors import DataError


class ShardSet:
    """`len(shards)` samples, numbered through all shards of the split.

    Attributes:
        labels: int64 (N,) class numbers, or float32 (N, K) in regression.
        sample_ids: uint64 (N,), the same sample's number in any preparation of the same source.
        image_shape: (height, width, 3) of raw images, None for encoded ones.
        num_classes: classes, or label columns in regression; class_names, task, encoding, fingerprint: see DataSummary.

    Threads may read at the same time. Files are opened at the first read in each process; what a fork inherits stays
    good, as pread and mmap keep no position. Pickled, it travels without its open files.
    """

    def __init__(self, directory: Path, split: str) -> None:
        manifest = read_manifest(directory)
        if not manifest.splits.get(split):
            there = ", ".join(f"{name} ({count})" for name, count in manifest.splits.items() if count)
            raise DataError(f"{directory} has no split {split!r}; it has {there}.")
        self.directory, self.split = directory, split
        self.task, self.encoding, self.fingerprint = manifest.task, manifest.encoding, manifest.fingerprint
        self.class_names, self.num_classes = manifest.class_names, manifest.num_classes
        self.image_shape = (*manifest.image_size, 3) if manifest.image_size else None
        tables = []
        for record in manifest.shards:
            if record.split == split and record.num_samples:
                path = directory / record.path
                tables.append(read_tables(path, record, manifest, find_offsets(path, record)))
        self._adopt(tables)
        self._files: dict[int, int] = {}
        self._maps: dict[int, np.ndarray] = {}

    def _adopt(self, tables: list[ShardTables]) -> None:
        self._paths = [table.path for table in tables]
        self._starts = np.cumsum([0, *(len(table.begin) for table in tables)]).tolist()
        self._begin = np.concatenate([table.begin for table in tables])
        self._size = np.concatenate([table.size for table in tables])
        self._crc32 = np.concatenate([table.crc32 for table in tables])
        self.labels = np.concatenate([table.labels for table in tables])
        self.sample_ids = np.concatenate([table.sample_ids for table in tables])

    def __len__(self) -> int:
        return len(self._begin)

    def read_bytes(self, i: int) -> bytes:
        """The stored bytes of image `i`: a JPEG file, or height * width * 3 pixels.

        Raises:
            IndexError: `i` is not in range(len(self)).
            DataError: the shard is gone or was cut short.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = bisect.bisect_right(self._starts, i) - 1
        size = int(self._size[i])
        data = os.pread(self._file(shard), size, int(self._begin[i]))
        if len(data) != size:
            raise DataError(f"{self._name(i)} is cut short; copy the shard again.")
        return data

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies raw images into a batch.

        Args:
            indices: integers (B,); out: uint8 (B, height, width, 3), C-contiguous, filled in that order.
        Raises:
            TypeError: the images are encoded: read_bytes and decode_rgb are for them.
            ValueError: `out` has another shape or type. IndexError: an index out of range.
        """
        if self.image_shape is None:
            raise TypeError(f"gather is for raw images, {self.directory} holds {self.encoding}")
        if out.shape != (len(indices), *self.image_shape) or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {(len(indices), *self.image_shape)}")
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()} of {len(self)}")
        if len(self._paths) == 1:  # mode 'raise' would gather into a buffer first
            np.take(self._map(0), indices, axis=0, out=out, mode="clip")
            return
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        rows = indices - np.asarray(self._starts)[shards]
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            out[place] = self._map(shard)[row]

    def verify(self, i: int) -> None:
        """Raises DataError, naming shard and sample, if the bytes of image `i` are not those that were written."""
        if zlib.crc32(self.read_bytes(i)) != int(self._crc32[i]):
            raise DataError(f"{self._name(i)} is damaged (crc32); copy the shard again or run prepare.py anew.")

    def close(self) -> None:
        """Closes the files of this process; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])
        self._maps.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_maps": {}}

    def __del__(self) -> None:
        if "_files" in self.__dict__:  # not after an __init__ that failed
            self.close()

    def _name(self, i: int) -> str:
        shard = bisect.bisect_right(self._starts, i) - 1
        return f"shard {self._paths[shard]} sample {i - self._starts[shard]}"

    def _file(self, shard: int) -> int:
        found = self._files.get(shard)
        if found is None:
            opened = _open(self._paths[shard])
            found = self._files.setdefault(shard, opened)
            if found != opened:  # another thread was first
                os.close(opened)
        return found

    def _map(self, shard: int) -> np.ndarray:
        found = self._maps.get(shard)
        if found is None:
            count, first = self._starts[shard + 1] - self._starts[shard], self._starts[shard]
            shape = (count, *self.image_shape)  # type: ignore[misc]  # gather has seen that it is not None
            mapped = np.memmap(self._paths[shard], np.uint8, "r", int(self._begin[first]), shape)
            found = self._maps.setdefault(shard, mapped.view(np.ndarray))  # memmap's own indexing is slower
        return found


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno == errno.EMFILE and soft != hard:  # many shards: take what the system grants
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise DataError(f"shard {path} cannot be opened: {error.strerror}.") from None
