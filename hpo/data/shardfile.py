"""One open shard. By offset where its datasets are contiguous, through libhdf5 where somebody has repacked it."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpo.data.libhdf5 import LOCK, OpenDataset
from hpo.errors import DataError


class ShardFile(Protocol):
    """Threads may use it at the same time; a forked child may use what its parent opened; pickles are closed."""

    def read(self, begin: int, size: int) -> bytes:
        """`size` bytes of images from `begin` on; fewer where the file ends."""
        ...

    def map_images(self, begin: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """The raw images (N, H, W, 3) from `begin` on without copying, or None where that cannot be."""
        ...

    def is_changed(self) -> bool:
        """Whether somebody wrote to it since its tables were read, or may have done.

        Raises:
            DataError: it was cut short or made longer.
        """
        ...

    def close(self) -> None: ...


class ContiguousFile:
    """pread and mmap by the offsets of the manifest: no lock is held and no position is shared."""

    def __init__(self, path: Path, state: tuple[int, int]) -> None:
        self._path, self._state = path, state
        self._handle: int | None = None
        self._map: np.ndarray | None = None
        self._lock = threading.Lock()

    def read(self, begin: int, size: int) -> bytes:
        return os.pread(self._open(), size, begin)

    def map_images(self, begin: int, shape: tuple[int, ...]) -> np.ndarray:
        if self._map is None:
            self.is_changed()  # a map that ends beyond the file kills the process
            self._map = np.memmap(self._path, np.uint8, "r", begin, shape).view(
                np.ndarray
            )  # its own indexing is slower
        return self._map

    def is_changed(self) -> bool:
        status = os.fstat(self._open())
        if status.st_size != self._state[0]:
            raise DataError(
                f"shard {self._path} changed while it was used ({self._state[0]} bytes, now {status.st_size}); "
                "prepare into a new directory, and leave data alone while a sweep reads it."
            )
        return status.st_mtime_ns != self._state[1]

    def close(self) -> None:
        with self._lock:
            handle, self._handle, self._map = self._handle, None, None
        if handle is not None:
            os.close(handle)

    def _open(self) -> int:
        if self._handle is None:
            with self._lock:
                if self._handle is None:
                    self._handle = _open(self._path)
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_state": self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_path"], state["_state"])  # type: ignore[misc]


class RepackedFile:
    """Chunked or compressed by h5repack or the like: each image through libhdf5, one thread at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._dataset = OpenDataset(path, name)

    def read(self, begin: int, size: int) -> bytes:
        with LOCK:
            dataset = self._dataset.get()
            if dataset.ndim == 1:
                return dataset[begin : begin + size].tobytes()
            return dataset[begin // size].tobytes()  # one row at a time: fancy indexing is slower

    def map_images(self, begin: int, shape: tuple[int, ...]) -> None:
        return None

    def is_changed(self) -> bool:
        return True  # nobody looks, so that every image is compared with its checksum each time

    def close(self) -> None:
        self._dataset.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_name": self._name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_path"], state["_name"])  # type: ignore[misc]


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno == errno.EMFILE and soft != hard:  # many shards: take what the system grants
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise DataError(f"shard {path} cannot be opened: {error.strerror}.") from None
