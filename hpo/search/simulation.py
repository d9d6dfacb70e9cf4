"""Asynchronous workers in simulated time: whoever hands out trainings is asked and told as a real loop would do it.

A tuner hands out jobs (a configuration, and the epoch up to which it is to be trained) and is told each epoch's error.
A job of a key that was trained before goes on from where it was. Standard library only: bench/ runs other programs'
tuners with it, in environments of their own.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Job:
    """One piece of work for a worker."""

    key: Any  # of the training
    config: Any
    until: int  # the epoch after which the tuner wants it back, at the latest


class Curve(Protocol):
    """A training that could be: `errors` after each epoch (NaN ends it), and the `seconds` of each epoch."""

    @property
    def errors(self) -> Sequence[float]: ...

    @property
    def seconds(self) -> Sequence[float]: ...


class Tuner(Protocol):
    """What the simulation asks of who hands out trainings."""

    def ask(self) -> Job | None:
        """The next job for a worker that is free; None: nothing before another job has ended."""

    def tell(self, key: Any, epoch: int, error: float, seconds: float) -> bool:
        """One epoch's error (NaN: it diverged); whether the training goes on."""

    def end(self, key: Any, epoch: int, error: float) -> None:
        """The training of `key` has come to its end (its last epoch, divergence, or its `until`)."""


@dataclass(frozen=True)
class Course:
    """What happened. seconds: until the last worker was free, or the end; busy: of all workers together, `opening`
    included; ask_s: CPU seconds of the tuner's own."""

    seconds: float
    busy: float
    trainings: int
    epochs: int
    ask_s: float


@dataclass
class _Training:
    curve: Curve
    epoch: int = 0


def simulate(
    tuner: Tuner,
    world: Callable[[Any], Curve],
    workers: int,
    end: float = math.inf,
    opening: float = 0.0,
    listen: Callable[[float, float], None] = lambda now, error: None,
) -> Course:
    """Runs `tuner` on `workers` workers until it has no more jobs or `end` seconds have passed.

    Args:
        world: the training of a configuration, asked for once a key.
        opening: seconds that a worker needs before the first epoch of each job.
        listen: told the time and the error after each epoch.
    """
    return _Simulation(tuner, world, workers, end, opening, listen).run()


class _Simulation:
    def __init__(self, tuner: Tuner, world: Callable[[Any], Curve], workers: int, end: float, opening: float,
                 listen: Callable[[float, float], None]) -> None:  # fmt: skip
        self._tuner, self._world, self._free = tuner, world, workers
        self._end, self._opening, self._listen = end, opening, listen
        self._trainings: dict[Any, _Training] = {}
        self._events: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._now = self._busy = self._asked = 0.0

    def run(self) -> Course:
        self._hand_out()
        last, epochs = 0.0, 0
        while self._events:
            self._now, _, job = heapq.heappop(self._events)
            if self._now > self._end:
                last = self._end
                break
            last, epochs = self._now, epochs + 1
            self._finish_epoch(job)
            self._hand_out()
        return Course(last, self._busy, len(self._trainings), epochs, self._asked)

    def _finish_epoch(self, job: Job) -> None:
        training = self._trainings[job.key]
        error, seconds = (float(row[training.epoch]) for row in (training.curve.errors, training.curve.seconds))
        training.epoch += 1
        self._listen(self._now, error)
        began = time.process_time()
        goes_on = self._tuner.tell(job.key, training.epoch, error, seconds)
        last = training.epoch >= min(job.until, len(training.curve.errors)) or not math.isfinite(error)
        if goes_on and last:
            self._tuner.end(job.key, training.epoch, error)
        self._asked += time.process_time() - began
        if goes_on and not last:
            self._start_epoch(job)
        else:
            self._free += 1

    def _hand_out(self) -> None:
        while self._free:
            began = time.process_time()
            job = self._tuner.ask()
            self._asked += time.process_time() - began
            if job is None:
                return
            if job.key not in self._trainings:
                self._trainings[job.key] = _Training(self._world(job.config))
            training = self._trainings[job.key]
            if training.epoch >= min(job.until, len(training.curve.errors)):  # it has fewer epochs than asked for
                self._tuner.end(job.key, training.epoch, float(training.curve.errors[training.epoch - 1]))
                continue
            self._free -= 1
            self._start_epoch(job, self._opening)

    def _start_epoch(self, job: Job, opening: float = 0.0) -> None:
        training = self._trainings[job.key]
        cost = opening + float(training.curve.seconds[training.epoch])
        self._busy += min(cost, max(self._end - self._now, 0.0))
        heapq.heappush(self._events, (self._now + cost, next(self._order), job))
