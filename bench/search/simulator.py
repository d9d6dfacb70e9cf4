"""One event simulator for all tuners: asynchronous workers, recorded seconds, the tuner asked as its own loop asks it.

A tuner hands out jobs (a configuration, and the epoch up to which it is to be trained) and is told each epoch's error.
A job of a key that was trained before goes on from where it was, at no extra cost: peers that pause are given that.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

from tasks import Config, Curve, Task


@dataclass(frozen=True)
class Job:
    key: Any  # of the training
    config: Config
    until: int  # the epoch after which the tuner wants it back, at the latest


class Tuner(Protocol):
    """What the simulator asks of a peer. `number` keys are the peer's own."""

    def ask(self) -> Job | None:
        """The next job for a worker that is free; None: nothing before another job has ended."""

    def tell(self, key: Any, epoch: int, error: float, seconds: float) -> bool:
        """One epoch's error (NaN: it diverged); whether the training goes on."""

    def end(self, key: Any, epoch: int, error: float) -> None:
        """The training of `key` has come to its end (its last epoch, divergence, or its `until`)."""


@dataclass
class Outcome:
    """`steps`: [budget in full trainings, error, test] at each improvement; the rest for the record."""

    steps: list[tuple[float, float]]
    trials: int
    epochs: int
    ask_s: float  # seconds of the tuner's own work in all
    idle: float  # share of the workers' time that was idle


@dataclass
class _Training:
    curve: Curve
    epoch: int = 0


def simulate(tuner: Tuner, task: Task, workers: int, trainings: float) -> Outcome:
    """Runs `tuner` on `task` until `trainings` full trainings' worth of worker time are spent."""
    end = trainings * task.cost / workers
    world, trainings_by_key = task.start(), {}
    events: list[tuple[float, int, Job]] = []
    order, free, best = itertools.count(), workers, math.inf
    steps: list[tuple[float, float]] = []
    now = busy = spent = 0.0
    epochs = 0

    def hand_out() -> None:
        nonlocal free, spent
        while free:
            began = time.process_time()
            job = tuner.ask()
            spent += time.process_time() - began
            if job is None:
                return
            if job.key not in trainings_by_key:
                trainings_by_key[job.key] = _Training(world(job.config))
            training = trainings_by_key[job.key]
            if training.epoch >= min(job.until, len(training.curve.errors)):  # its own epochs are fewer than asked for
                tuner.end(job.key, training.epoch, float(training.curve.errors[training.epoch - 1]))
                continue
            free -= 1
            push(job)

    def push(job: Job) -> None:
        nonlocal busy
        training = trainings_by_key[job.key]
        cost = float(training.curve.seconds[training.epoch])
        busy += min(cost, max(end - now, 0.0))
        heapq.heappush(events, (now + cost, next(order), job))

    hand_out()
    while events:
        now, _, job = heapq.heappop(events)
        if now > end:
            break
        training = trainings_by_key[job.key]
        error = float(training.curve.errors[training.epoch])
        seconds = float(training.curve.seconds[training.epoch])
        training.epoch += 1
        epochs += 1
        if error < best:
            best = error
            steps.append((round(now * workers / task.cost, 4), round(best, 6)))
        began = time.process_time()
        goes_on = tuner.tell(job.key, training.epoch, error, seconds)
        last = training.epoch >= min(job.until, len(training.curve.errors)) or not math.isfinite(error)
        if goes_on and last:
            tuner.end(job.key, training.epoch, error)
        spent += time.process_time() - began
        if goes_on and not last:
            push(job)
        else:
            free += 1
        hand_out()
    return Outcome(steps, len(trainings_by_key), epochs, round(spent, 3), round(1 - busy / (end * workers), 4))
