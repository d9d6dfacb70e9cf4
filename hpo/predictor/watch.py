"""What a fit says while it works: lines on stderr, one that is redrawn on a terminal. Results are return values."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from hpo.layout import SweepDirectory
from hpo.records import Event, SweepState, read_events
from hpo.results.read import progress_line
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


class Watch:
    """Follows a sweep's journal: a line that is redrawn on a terminal; elsewhere one for each trial that ends."""

    def __init__(self, directory: SweepDirectory, num_trials: int, verbosity: int) -> None:
        self._directory, self._num_trials = directory, num_trials
        self._say, self._quiet = voice(verbosity), verbosity <= 0
        self._live = sys.stderr.isatty() and not self._quiet
        self._start = self._told = time.monotonic()
        self._shown = self._size = 0
        self.state = SweepState()

    def show(self, doing: str = "starting") -> None:
        """Reads what is new and tells it; `doing` is said while no trial has started."""
        size = self._directory.journal.stat().st_size
        events = read_events(self._directory.journal) if size != self._size else []
        for event in events[self._shown :]:
            self.state.apply(event)
            if not self._live:
                self._tell(event)
        self._shown, self._size = max(self._shown, len(events)), size
        if self._live:
            sys.stderr.write(f"\r\x1b[K{self._line(doing)}")
            sys.stderr.flush()
        elif not self._quiet and time.monotonic() - self._told >= 6 * _EVERY_S:
            self._told = time.monotonic()
            self._say(self._line(doing))

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def _tell(self, event: Event) -> None:
        if event["type"] == "finished":
            self._say(f"trial {event['trial']} {event['state']}: {event['reason']}; {self._line('')}")
        elif event["type"] == "failed" and event["retry"]:
            self._say(f"trial {event['trial']} {event['kind']}: {event['cause']}; it will run again")

    def _line(self, doing: str) -> str:
        if not self.state.trials:
            return f"{doing} ({duration(time.monotonic() - self._start)})"
        ended = sum(trial.finished for trial in self.state.trials.values())
        spent = time.monotonic() - self._start
        left = spent / ended * (self._num_trials - ended) if ended else 0
        return f"{progress_line(self.state, self._num_trials)}{f', about {duration(left)} left' if left else ''}"
