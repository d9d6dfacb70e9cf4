"""libhdf5 serves one thread at a time, and what it keeps of an open file does not survive a fork."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py

from hpo.data.format import open_hdf5

# Around every use in a process. A fork waits for it, so that no child is born in the middle of somebody's read.
LOCK = threading.RLock()
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class OpenDataset:
    """A dataset of the file at `path`, opened by each process for itself at its first use, under LOCK."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._opened: tuple[int, h5py.Dataset] | None = None

    def get(self) -> h5py.Dataset:
        """To be called and used while LOCK is held.

        Raises:
            DataError: the file cannot be opened. KeyError: it has no such dataset.
        """
        if self._opened is None or self._opened[0] != os.getpid():  # what the parent opened is the parent's
            self._opened = (os.getpid(), open_hdf5(self._path)[self._key])
        return self._opened[1]

    def close(self) -> None:
        with LOCK:
            opened, self._opened = self._opened, None
            if opened and opened[0] == os.getpid():
                opened[1].file.close()
