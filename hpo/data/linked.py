"""A split of images that stay in somebody else's HDF5 file, see hpo.data.link: read through libhdf5, one thread at a
time; pixels that lie in the file as they are (contiguous, unfiltered, RGB) by their offset.

Nothing of such a file is written down but its labels: a file that changes is refused, but there are no checksums.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpo.data.format import open_hdf5
from hpo.data.images import AS_IT_IS, BadImage, store
from hpo.data.libhdf5 import LOCK, OpenDataset
from hpo.data.link import read_index
from hpo.data.manifest import SPLITS, Link, Manifest
from hpo.data.shardfile import ContiguousFile
from hpo.data.shards import ShardSet
from hpo.errors import DataError

logger = logging.getLogger(__name__)
_warned: set[str] = set()


class LinkedSet(ShardSet):
    """Reads like a ShardSet.

    `sized` is False of encoded images: how large one is tells its file alone, and `heights` and `widths` are 0. Such
    have no `read_bytes`; `content` is what the file holds.
    """

    def __init__(self, directory: Path, manifest: Manifest, split: str) -> None:
        """
        Raises:
            DataError: the file is gone or changed, its index is damaged, or there is no such split.
        """
        assert manifest.link
        self._describe(directory, manifest, split)
        self.link: Link = manifest.link
        self._path = self.link.file(directory)
        index = read_index(directory, self.link)
        chosen = index.splits == SPLITS.index(split)
        self._rows, self.labels = index.rows[chosen], index.labels[chosen]
        self.sample_ids = self._rows.astype(np.uint64)
        self.sized = self.image_shape is not None
        height, width = (self.image_shape or (0, 0, 3))[:2]
        self.heights, self.widths = (np.full(len(self._rows), side, np.int64) for side in (height, width))
        self._dataset = OpenDataset(self._path, self.link.key)
        self._plain = self._find_plain_pixels()
        self._files = [] if self._plain is None else [ContiguousFile(self._path, (self.link.size, self.link.mtime_ns))]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_plain(self) -> bool:
        return self._plain is not None

    def blocks(self) -> None:
        return None

    def content(self, i: int) -> bytes | np.ndarray:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        row = int(self._rows[i])
        if self._plain is not None:
            self._require_unchanged()
            return self._all()[row]
        try:
            with LOCK:
                value = self._dataset.get()[row]
        except (OSError, RuntimeError, KeyError) as error:  # a damaged chunk, a filter that is not installed
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.name(i)} cannot be read ({reason}); mend the file.") from None
        finally:
            self._require_unchanged()  # after reading: a change before that is seen here, and is the better reason
        if self.link.layout == "encoded":
            return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
        return value.transpose(1, 2, 0) if self.link.layout == "NCHW" else value

    def pixels(self, i: int) -> np.ndarray:
        content = self.content(i)
        if isinstance(content, np.ndarray) and content.ndim == 3 and content.shape[2] == 3:
            return content
        try:
            stored, shape = store(content, AS_IT_IS)
        except BadImage as reason:
            raise DataError(f"{self.name(i)} cannot be decoded: {reason}; mend the file.") from None
        return np.frombuffer(stored, np.uint8).reshape(shape)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        self._check_gather(indices, out)
        if self._plain is not None and len(indices):
            self._require_unchanged()  # a map that ends beyond the file kills the process
            np.take(self._all(), self._rows[indices], axis=0, out=out, mode="clip")
            self._require_unchanged()
            return
        for place, index in enumerate(indices.tolist()):
            out[place] = self.pixels(index)

    def read_bytes(self, i: int) -> bytes:
        raise TypeError(f"{self.directory} links images that may be of any kind: content and pixels are for them")

    def name(self, i: int) -> str:
        return f"{self._path} dataset {self.link.key!r} row {int(self._rows[i])}"

    def close(self) -> None:
        self._dataset.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._dataset = OpenDataset(self._path, self.link.key)

    def _find_plain_pixels(self) -> tuple[int, tuple[int, ...]] | None:
        """Offset and shape of the dataset, where no library is needed to read it; else says once that it is slow."""
        with LOCK, open_hdf5(self._path) as file:
            dataset = file[self.link.key]
            offset = dataset.id.get_offset() if dataset.chunks is None and not dataset.external else None
            shape, how = dataset.shape, _describe_storage(dataset)
        if offset is not None and self.link.layout == "NHWC" and shape[3] == 3:
            return offset, shape
        if str(self._path) not in _warned:
            _warned.add(str(self._path))
            logger.warning(
                "%s is read through libhdf5 (%s), one image at a time: slower than shards. "
                "`python launch/prepare.py %s --out DATA` without --link makes shards of it.",
                self._path, how, self._path,
            )  # fmt: skip
        return None

    def _require_unchanged(self) -> None:
        try:
            status = self._path.stat()
        except OSError:
            status = None
        if status is None or (status.st_size, status.st_mtime_ns) != (self.link.size, self.link.mtime_ns):
            self.link.file(self.directory)  # says so

    def _all(self) -> np.ndarray:
        assert self._plain is not None
        offset, shape = self._plain
        return self._files[0].map_images(offset, shape)  # type: ignore[return-value]


def _describe_storage(dataset: h5py.Dataset) -> str:
    if dataset.chunks is None:
        return "variable length" if dataset.dtype.kind == "O" else f"{dataset.dtype} {list(dataset.shape)}"
    compressed = f", compressed by {dataset.compression}" if dataset.compression else ""
    return f"{dataset.chunks[0]} images a chunk{compressed}"
