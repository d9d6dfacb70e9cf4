"""Ends a process whose trial makes no progress, and says where it stood.

The clock is a thread of C that needs neither Python's lock nor the main thread, so it also ends a process that hangs
inside a library. The stacks of all threads go to the trial's fault.txt, as do those of a crash (SIGSEGV and the like);
hpo.search.engine reads the cause there, and the next run of the trial moves them to its log.
"""

from __future__ import annotations

import faulthandler
import os
import time
from pathlib import Path

_REARM_S = 1.0
_BEATS = 20  # signs of life per timeout, for who watches from outside


class Watchdog:
    """`tick` at every sign of progress; `pause` while nothing is to be done. `timeout_s` 0 is no watchdog."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path, self._timeout = path, timeout_s
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_in_log(path)
        self._stream = path.open("w", encoding="utf-8")
        faulthandler.enable(self._stream)
        self._armed = self._beaten = -_REARM_S

    def tick(self) -> None:
        now = time.monotonic()
        if not self._timeout or now - self._armed < min(_REARM_S, self._timeout / 2):
            return
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=self._stream)
        self._armed = now
        if now - self._beaten > self._timeout / _BEATS:
            os.utime(self._path)
            self._beaten = now

    def pause(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._armed = -_REARM_S

    def close(self) -> None:
        self.pause()
        faulthandler.disable()
        self._stream.close()
        self._path.unlink(missing_ok=True)


def _keep_in_log(path: Path) -> None:
    """What an earlier process left of its end."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if text:
        with (path.parent / "log.txt").open("a", encoding="utf-8") as log:
            log.write(text)
