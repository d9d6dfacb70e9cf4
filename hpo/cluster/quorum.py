"""The hosts without which no trial of several nodes can run: a job that has too few left is to have others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from hpo.cluster.rendezvous import Rendezvous

PATIENCE_S = 90.0  # a host on which Ray has only died is back in some seconds
SHORT = "short"  # the attempt's file that asks its supervisor to have the job queued again


class Quorum:
    """Of a job's hosts those that are there, as a pool looks at its own; `needs()` is the number that a trial takes."""

    def __init__(self, needs: Callable[[], int], rendezvous: Rendezvous) -> None:
        self._needs, self._rendezvous = needs, rendezvous
        self._whole = time.monotonic()  # when there were enough, last

    def look(self, workers: Mapping[str, Mapping[str, Any]]) -> str:
        """Why there is no use in going on, '' as a rule."""
        now, needs = time.monotonic(), self._needs()
        if len(workers) >= needs:
            self._whole = now
        if now - self._whole < PATIENCE_S:
            return ""
        self._rendezvous.announce(SHORT, hosts=len(workers), needs=needs)
        return f"only {len(workers)} of the {needs} hosts that a trial needs are left"
