"""One event simulator for all tuners, hpo.search.simulation's: asynchronous workers, recorded seconds, the tuner asked
as its own loop asks it. Peers that pause a training go on with it at no extra cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks import Task

from hpo.search import simulation
from hpo.search.simulation import Job, Tuner

__all__ = ["Job", "Outcome", "Tuner", "simulate"]


@dataclass
class Outcome:
    """`steps`: [budget in full trainings, error, test] at each improvement; the rest for the record."""

    steps: list[tuple[float, float]]
    trials: int
    epochs: int
    ask_s: float  # seconds of the tuner's own work in all
    idle: float  # share of the workers' time that was idle


def simulate(tuner: Tuner, task: Task, workers: int, trainings: float) -> Outcome:
    """Runs `tuner` on `task` until `trainings` full trainings' worth of worker time are spent."""
    end = trainings * task.cost / workers
    best, steps = math.inf, []

    def listen(now: float, error: float) -> None:
        nonlocal best
        if error < best:
            best = error
            steps.append((round(now * workers / task.cost, 4), round(best, 6)))

    course = simulation.simulate(tuner, task.start(), workers, end, listen=listen)
    idle = round(1 - course.busy / (end * workers), 4)
    return Outcome(steps, course.trainings, course.epochs, round(course.ask_s, 3), idle)
