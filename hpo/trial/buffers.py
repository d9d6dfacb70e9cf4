"""Memory for batches, used again and again: fresh memory costs a page fault every 4 KiB."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """uint8 tensors whose memory comes back by itself when the last tensor that shares it is gone.

    Page-locked memory is torch's to reuse: its allocator also waits for copies that a GPU has not finished.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Gives back what is not lent."""
        with self._lock:
            for free in self._free.values():
                free.clear()  # in place: lent memory comes back to these lists

    def take(self, *shape: int) -> Tensor:
        """A tensor of `shape` with whatever was in that memory before."""
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        count = int(np.prod(shape))
        with self._lock:
            free = self._free[count]
            memory = free.pop() if free else np.empty(count, np.uint8)
        lent = memory[:]  # tensors keep this view alive, and only they
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)
