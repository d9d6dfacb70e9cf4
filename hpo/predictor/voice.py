"""What a fit says: lines on stderr. Results are return values."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from hpo.results.wording import duration

_EVERY_S = 10.0


class Voice(Protocol):
    """Says one line to the person."""

    def __call__(self, message: str) -> None: ...


def voice(verbosity: int) -> Voice:
    """Lines on stderr, none with verbosity 0."""

    def say(message: str) -> None:
        if verbosity > 0:
            sys.stderr.write(f"hpo: {message}\n")
            sys.stderr.flush()

    return say


class Bar:
    """Progress of the data room's stages, at most each ten seconds."""

    def __init__(self, say: Voice) -> None:
        self._say, self._last, self._start, self._unit = say, time.monotonic(), time.monotonic(), ""

    def __call__(self, done: int, total: int, unit: str, note: str) -> None:
        now = time.monotonic()
        if unit != self._unit:
            self._unit, self._start = unit, now
        if now - self._last >= _EVERY_S:
            self._last = now
            left = duration((now - self._start) * (total - done) / max(done, 1))
            self._say(f"{done} of {total} {unit}, about {left} left{', ' + note if note else ''}")
