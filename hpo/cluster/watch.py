"""What the driver keeps an eye on beside the search: who joins and leaves, the GPU-hours, whether hosts are missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from hpo.cluster.nodes import NodeWatch
from hpo.cluster.pool import Pool
from hpo.cluster.quorum import Quorum
from hpo.cluster.terms import Terms, spent
from hpo.errors import SlurmtuneError
from hpo.records import Event
from hpo.usage import Usage

_LOOK_S = 0.5
_EAGER_S, _EAGER_LOOK_S = 20.0, 0.1  # at first, while hosts join and the search waits for them
_NOTE_S = 300.0  # between two notes of the GPU-hours: of an attempt that is killed no more than this goes uncounted


class Watch:
    """A thread of the driver's. `say` takes a line for the log; `leave(reason, over)` ends the attempt in order, with
    `over` the sweep."""

    def __init__(
        self,
        nodes: NodeWatch,
        terms: Terms,
        events: list[Event],
        note: Callable[..., None],
        leave: Callable[[str, bool], None],
        say: Callable[[str], None],
        pool: Pool | Quorum | None = None,
    ) -> None:
        self._pool = pool
        self._nodes, self._terms, self._note, self._leave, self._say = nodes, terms, note, leave, say
        self._usage, self._events, self._read = Usage(), events, 0
        self._noted, self._complaint = time.monotonic(), ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The cluster is about to go: what leaves from now on is no news."""
        self._over.set()

    def hosts(self) -> list[str]:
        """The hosts of the workers that have joined."""
        return sorted(worker["host"] for worker in self._nodes.workers.values())

    def first_worker(self) -> dict[str, Any]:
        return next(iter(self._nodes.workers.values()))

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            try:
                self._look()
            except (ray.exceptions.RayError, OSError, SlurmtuneError) as error:
                # the head goes, which the supervisor sees to, or the file system fails, perhaps for a moment
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    self._say(f"hosts and limits could not be looked at, which is tried again: {error}")
            self._over.wait(_LOOK_S if time.monotonic() - began > _EAGER_S else _EAGER_LOOK_S)

    def _look(self) -> None:
        self._nodes.look()
        if self._pool and (why := self._pool.look(self._nodes.workers)):
            self._leave(why, False)
        if self._terms.max_gpu_hours is None and self._terms.time_limit is None:
            return
        for event in self._events[self._read :]:
            self._usage.apply(event)
            self._read += 1
        now = time.time()
        if self._terms.max_gpu_hours is not None and time.monotonic() - self._noted > _NOTE_S:
            self._noted = time.monotonic()
            self._note("used", gpu_hours=round(self._usage.gpu_hours(now), 4))
        if why := spent(self._usage, replace(self._terms, max_attempts=None), now):
            self._leave(why, True)
