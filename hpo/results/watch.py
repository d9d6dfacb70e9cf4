"""What a person who waits for a sweep sees: a line that is redrawn on a terminal, else a line for each trial that ends
and one a minute in between. For commands and for Python alike."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from hpo.layout import SweepDirectory
from hpo.records import Event, SweepState, read_events
from hpo.results.read import progress_line
from hpo.results.wording import duration, short

_REMIND_S = 60.0
_FEWEST = 3  # trials that have ended before what is left is estimated


class Watch:
    """Follows a sweep's journal on stderr. `say` takes a line; None: nothing is shown, `state` is kept all the same."""

    def __init__(self, directory: SweepDirectory, num_trials: int, say: Callable[[str], None] | None) -> None:
        self._directory, self._num_trials, self._say = directory, num_trials, say
        self._live = say is not None and sys.stderr.isatty()
        self._start = self._told = time.monotonic()
        self._shown = self._size = 0
        self.state = SweepState()

    def show(self, doing: str = "preparing data and starting Ray") -> None:
        """Reads what is new and tells it; `doing` is said while no trial has started."""
        size = self._directory.journal.stat().st_size
        events = read_events(self._directory.journal) if size != self._size else []
        for event in events[self._shown :]:
            self.state.apply(event)
            if not self._live:
                self._tell(event)
        self._shown, self._size = max(self._shown, len(events)), size
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be drawn over
            sys.stderr.write(f"\r\x1b[K{short(self._line(doing), width)}")
            sys.stderr.flush()
        elif time.monotonic() - self._told >= _REMIND_S:
            self._put(self._line(doing))

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def _tell(self, event: Event) -> None:
        if event["type"] == "finished":
            self._put(f"trial {event['trial']} {event['state']}: {event['reason'].rstrip('.')}; {self._line('')}")
        elif event["type"] == "failed" and event["retry"]:
            self._put(f"trial {event['trial']} {event['kind']}: {event['cause'].rstrip('.')}; it will run again")

    def _put(self, line: str) -> None:
        self._told = time.monotonic()
        if self._say:
            self._say(line)

    def _line(self, doing: str) -> str:
        if not self.state.trials:
            return f"{doing} ({duration(time.monotonic() - self._start)})"
        return f"{progress_line(self.state, self._num_trials)}{self._left()}"

    def _left(self) -> str:
        """An estimate from the trials that have ended; early ones stop more, so it errs on the long side at first."""
        ended = sum(trial.finished for trial in self.state.trials.values())
        if ended < _FEWEST or ended >= self._num_trials:
            return ""
        spent = time.monotonic() - self._start
        return f", about {duration(spent / ended * (self._num_trials - ended))} left"
