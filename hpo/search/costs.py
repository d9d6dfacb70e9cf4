"""What pausing costs, as the sweep's own trials show it: seconds to open a training, seconds of an epoch."""

from __future__ import annotations

import statistics
from collections import deque

from hpo.records import Event

_REMEMBERED = 31  # the latest trials count: hosts and models differ, and a median of few is quick


class Costs:
    """The fold of `reported` events that looks at their times."""

    def __init__(self) -> None:
        self._opened: deque[float] = deque(maxlen=_REMEMBERED)
        self._epochs: deque[float] = deque(maxlen=_REMEMBERED)

    def fold(self, event: Event) -> None:
        if event.get("opened") is not None:
            self._opened.append(event["opened"])
        seconds = event["metrics"].get("seconds")
        if isinstance(seconds, (int, float)) and seconds > 0:
            self._epochs.append(seconds)

    def resuming(self) -> float | None:
        """Epochs' worth of time that it takes to take a paused trial up again; None while nothing is known."""
        if not self._opened or not self._epochs:
            return None
        return statistics.median(self._opened) / statistics.median(self._epochs)
