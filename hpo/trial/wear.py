"""When a warm process has served long enough: after so many trials, a measured leak, or a failure.

    SLURMTUNE_TRIALS_PER_PROCESS   trials after which a process is replaced (100)
    SLURMTUNE_LEAK_MB              MiB that memory may have grown between two trials (1024)

What imports, warm caches and the largest model so far take is no leak: memory is read when nothing of a trial is left
and the allocator has given back what it can, and growth counts from the second trial on. The processes of a trial that
has several each count for themselves, see hpo.trial.rank, and are replaced together.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from hpo.errors import UsageError

TRIALS_VARIABLE, LEAK_VARIABLE = "SLURMTUNE_TRIALS_PER_PROCESS", "SLURMTUNE_LEAK_MB"
_TRIALS, _LEAK_MB = 100, 1024
_SETTLED = 2  # trials until everything has been imported and every cache been filled once
_MIB = 2**20


class Wear:
    """Is told of the trials of this process; `reason` says why no other is to follow, or ''."""

    def __init__(self) -> None:
        self.reason = ""
        self._trials, self._most, self._leak = 0, whole(TRIALS_VARIABLE, _TRIALS, 1), whole(LEAK_VARIABLE, _LEAK_MB, 1)
        self._first: dict[str, int] = {}

    def begin_trial(self) -> None:
        self._trials += 1
        if self._trials >= self._most:
            self.reason = self.reason or f"it has run {self._trials} trials"

    def end_trial(self, kept: int = 0) -> None:
        """After its memory was freed, but for `kept` bytes that are held on purpose."""
        if self._trials < _SETTLED:
            return
        for kind, used in measure_memory().items():
            grown = (used - kept - self._first.setdefault(kind, used - kept)) // _MIB
            if grown > self._leak:
                self.reason = self.reason or f"its {kind} grew by {grown} MiB in {self._trials} trials"


def measure_memory() -> dict[str, int]:
    """Bytes that this process holds, by kind: resident and its own, and tensors on the GPU."""
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed; others have no such call
        ctypes.CDLL(None).malloc_trim(0)
    used = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
        used["memory"] = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")  # mapped files are no leak
    torch = sys.modules.get("torch")  # not in a process whose ranks train
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        used["GPU memory"] = int(torch.cuda.memory_allocated())
    return used


def whole(variable: str, default: int, low: int) -> int:
    """
    Raises:
        UsageError: `variable` of the environment is no whole number of at least `low`.
    """
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or int(text) < low:
        raise UsageError(f"{variable} must be a whole number of at least {low}, got {text!r}.")
    return int(text)
