"""The samples of one split over all of its shards, by number."""

from __future__ import annotations

import bisect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpo.data.blocks import cut_blocks
from hpo.data.checksum import crc32
from hpo.data.columns import Columns
from hpo.data.decode import decode_rgb
from hpo.data.format import dataset_name
from hpo.data.manifest import Manifest, ShardRecord, read_manifest
from hpo.data.shardfile import ContiguousFile, RepackedFile, ShardFile
from hpo.data.tables import Offsets, ShardTables, find_offsets, read_cells, read_tables
from hpo.errors import DataError

logger = logging.getLogger(__name__)


class ShardSet:
    """`len(shards)` samples, numbered through all shards of the split.

    Attributes:
        labels: int64 (N,) class numbers, or float32 (N, K) in regression.
        sample_ids: uint64 (N,), the same sample's number in any preparation of the same source.
        heights, widths: int64 (N,), pixels of each image as stored.
        image_shape: (height, width, 3) of raw images, None for encoded ones.
        sized: whether heights and widths are known, as they are of all shards.
        num_classes: classes, or label columns in regression; class_names, task, encoding, fingerprint: see DataSummary.
        columns: of rows of a table, else None; then numbers float64 (N, n), NaN where missing, codes int32 (N, c), see
            hpo.data.columns, and present bool (N,): whether the row has an image in this image column.

    Threads may read at the same time. Files are opened at the first read in each process; what a fork inherits stays
    good. Pickled, it travels without its open files.
    """

    def __init__(self, directory: Path, split: str, column: int = 0) -> None:
        """`column`: which image column of a table to read; data of images alone have the one. Numbers and codes come
        with the first."""
        manifest = read_manifest(directory)
        self._describe(directory, manifest, split)
        self._files: list[ShardFile] = []
        records = [record for record in manifest.shards if record.split == split and record.num_samples]
        paths = [directory / record.path for record in records]
        offsets = [find_offsets(path, record) for path, record in zip(paths, records, strict=True)]
        shards = list(zip(paths, records, offsets, strict=True))
        self._adopt([self._open(path, record, manifest, places, column) for path, record, places in shards])
        if self.columns:
            self.present = self.heights > 0
        if self.columns and column == 0:
            cells = [read_cells(path, record, manifest, places) for path, record, places in shards]
            self.numbers, self.codes = (np.concatenate(parts) for parts in zip(*cells, strict=True))

    def _describe(self, directory: Path, manifest: Manifest, split: str) -> None:
        if not manifest.splits.get(split):
            there = ", ".join(f"{name} ({count})" for name, count in manifest.splits.items() if count)
            raise DataError(f"{directory} has no split {split!r}; it has {there}.")
        self.directory, self.split, self.sized = directory, split, True
        self.task, self.encoding, self.fingerprint = manifest.task, manifest.encoding, manifest.fingerprint
        self.class_names, self.num_classes = manifest.class_names, manifest.num_classes
        self.image_shape = (*manifest.image_size, 3) if manifest.image_size else None
        self.columns = Columns.from_json(manifest.columns) if manifest.columns else None

    def _open(
        self, path: Path, record: ShardRecord, manifest: Manifest, offsets: Offsets | None, column: int
    ) -> ShardTables:
        tables = read_tables(path, record, manifest, offsets, column)
        if offsets is None:
            if not any(isinstance(file, RepackedFile) for file in self._files):
                logger.warning(
                    "%s was repacked (chunked or compressed); reading through HDF5, which is slower. "
                    "Copy the original or run prepare.py anew.",
                    path,
                )
            name = dataset_name("images" if manifest.encoding == "raw" else "bytes", column)
            self._files.append(RepackedFile(path, name))
        else:
            self._files.append(ContiguousFile(path, tables.state))
        return tables

    def _adopt(self, tables: list[ShardTables]) -> None:
        self._paths = [table.path for table in tables]
        self._starts = np.cumsum([0, *(len(table.begin) for table in tables)]).tolist()
        self._begin = np.concatenate([table.begin for table in tables])
        self._size = np.concatenate([table.size for table in tables])
        self._crc32 = np.concatenate([table.crc32 for table in tables])
        self._seen = np.zeros(len(self._begin), bool)  # compared with its checksum by this process
        self.heights, self.widths = np.concatenate([table.shapes for table in tables]).astype(np.int64).T[:2]
        self.labels = np.concatenate([table.labels for table in tables])
        self.sample_ids = np.concatenate([table.sample_ids for table in tables])

    def __len__(self) -> int:
        return len(self._begin)

    def read_bytes(self, i: int) -> bytes:
        """The stored bytes of image `i`, as they were written: a JPEG file, or height * width * 3 pixels.

        Raises:
            IndexError: `i` is not in range(len(self)).
            DataError: the shard is gone, was cut short or damaged; names shard and sample.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        size = int(self._size[i])
        file = self._files[bisect.bisect_right(self._starts, i) - 1]
        try:
            data = file.read(int(self._begin[i]), size)
        except (OSError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.name(i)} cannot be read ({reason}); copy the shard again.") from None
        if len(data) != size:
            raise DataError(f"{self.name(i)} is cut short; copy the shard again.")
        self._compare(i, data)
        return data

    @property
    def is_plain(self) -> bool:
        """Whether the files hold pixels as they are, to be mapped."""
        return self.image_shape is not None and all(isinstance(file, ContiguousFile) for file in self._files)

    def read_many(self, indices: np.ndarray) -> list[bytes]:
        """The stored bytes of several images. Unlike read_bytes, an image is compared with its checksum when it is read
        for the first time by this process, and always once somebody has written to its shard.

        Raises:
            IndexError, DataError: as read_bytes.
        """
        self._check_range(indices)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        places = zip(shards.tolist(), self._begin[indices].tolist(), self._size[indices].tolist(), strict=True)
        try:
            found = [self._files[shard].read(begin, size) for shard, begin, size in places]
        except (OSError, RuntimeError):
            return [self.read_bytes(i) for i in indices.tolist()]  # which names the image
        self.verify(indices, found)
        return found

    def verify(self, indices: np.ndarray, found: Sequence[bytes]) -> None:
        """Compares stored bytes that were read just now with size and checksum, as far as read_many says.

        Raises:
            DataError: a shard was cut short, or an image is damaged.
        """
        shards = np.unique(np.searchsorted(self._starts, indices, side="right") - 1)
        for shard in shards.tolist():  # after reading: a change before that is seen here
            if self._files[shard].is_changed():
                self._seen[self._starts[shard] : self._starts[shard + 1]] = False
        if list(map(len, found)) != self._size[indices].tolist():
            short = next(i for i, data in zip(indices.tolist(), found, strict=True) if len(data) != self._size[i])
            raise DataError(f"{self.name(short)} is cut short; copy the shard again.")
        unseen = np.flatnonzero(~self._seen[indices])
        for place in unseen.tolist():
            self._compare(int(indices[place]), found[place])
        self._seen[indices[unseen]] = True

    def read_run(self, first: int, last: int) -> bytes:
        """The stored bytes of images `first` to `last` - 1, in a row in one shard; not compared with anything.

        Raises:
            DataError: the shard is gone or was cut short.
        """
        file = self._files[bisect.bisect_right(self._starts, first) - 1]
        begin, end = int(self._begin[first]), int(self._begin[last - 1] + self._size[last - 1])
        data = file.read(begin, end - begin)
        while data and len(data) < end - begin:  # some file systems give less at a time
            more = file.read(begin + len(data), end - begin - len(data))
            if not more:
                raise DataError(f"{self.name(first)} and the images after it are cut short; copy the shard again.")
            data += more
        return data

    def begins(self, indices: np.ndarray) -> np.ndarray:
        """The place of each image in its shard, int64."""
        return self._begin[indices].astype(np.int64)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Stored bytes of each image, int64."""
        return self._size[indices].astype(np.int64)

    def blocks(self) -> np.ndarray | None:
        """The first image of each block, see hpo.data.blocks; None where images do not lie in a row in their files."""
        if not all(isinstance(file, ContiguousFile) for file in self._files):
            return None
        return cut_blocks(self._begin, self._begin + self._size, self._starts)

    def content(self, i: int) -> bytes | np.ndarray:
        """Image `i` as it is kept: an encoded file, or pixels.

        Raises:
            IndexError, DataError: as read_bytes.
        """
        data = self.read_bytes(i)
        return data if self.image_shape is None else np.frombuffer(data, np.uint8).reshape(self.image_shape)

    def pixels(self, i: int) -> np.ndarray:
        """Image `i`, uint8 (height, width, 3), not to be written to.

        Raises:
            IndexError, DataError: as read_bytes; or it cannot be decoded.
        """
        content = self.content(i)
        if isinstance(content, np.ndarray):
            return content
        try:
            return decode_rgb(content)
        except DataError as error:
            raise DataError(f"{self.name(i)} cannot be decoded: {error}") from None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies raw images into a batch.

        Args:
            indices: integers (B,); out: uint8 (B, height, width, 3), C-contiguous, filled in that order.
        Raises:
            TypeError: the images are encoded: read_bytes and decode_rgb are for them.
            ValueError: `out` has another shape or type. IndexError: an index out of range.
            DataError: a shard was changed meanwhile.
        """
        self._check_gather(indices, out)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        maps = {shard: self._map(shard) for shard in np.unique(shards).tolist()}
        only = maps.get(0) if len(self._files) == 1 else None
        if only is not None:  # mode 'raise' would gather into a buffer first
            np.take(only, indices, axis=0, out=out, mode="clip")
            return
        rows = indices - np.asarray(self._starts)[shards]
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            found = maps[shard]
            if found is None:
                out[place] = np.frombuffer(self.read_bytes(self._starts[shard] + row), np.uint8).reshape(out.shape[1:])
            else:
                out[place] = found[row]

    def _compare(self, i: int, data: bytes) -> None:
        if crc32(data) != int(self._crc32[i]):
            raise DataError(f"{self.name(i)} is damaged (crc32); copy the shard again or run prepare.py anew.")

    def _check_range(self, indices: np.ndarray) -> None:
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()} of {len(self)}")

    def _check_gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        if self.image_shape is None:
            raise TypeError(f"gather is for raw images, {self.directory} holds {self.encoding}")
        if out.shape != (len(indices), *self.image_shape) or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {(len(indices), *self.image_shape)}")
        self._check_range(indices)

    def _map(self, shard: int) -> np.ndarray | None:
        """The images of a shard in memory, or None if each has to be read, and compared with its checksum."""
        file, first = self._files[shard], self._starts[shard]
        if file.is_changed():
            return None
        return file.map_images(int(self._begin[first]), (self._starts[shard + 1] - first, *(self.image_shape or ())))

    def close(self) -> None:
        """Closes the files of this process; reading opens them again."""
        for file in self._files:
            file.close()

    def __del__(self) -> None:
        if "_files" in self.__dict__ and not sys.is_finalizing():  # not after an __init__ that failed early
            self.close()

    def name(self, i: int) -> str:
        """'shard PATH sample N', N within the shard."""
        shard = bisect.bisect_right(self._starts, i) - 1
        return f"shard {self._paths[shard]} sample {i - self._starts[shard]}"
