"""Ray Tune's searchers and schedulers, called in TuneController's order (2.60: _process_trial_result, stop_trial)."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
from simulator import Job
from tasks import Config, Knob, Task

logging.disable(logging.WARNING)


def tune_space(task: Task) -> dict[str, Any]:
    from ray import tune

    def domain(knob: Knob) -> Any:
        if knob.options:
            return tune.choice(list(knob.options))
        if knob.integer:
            make = tune.lograndint if knob.log else tune.randint
            return make(int(knob.low), int(knob.high) + 1)
        return (tune.loguniform if knob.log else tune.uniform)(knob.low, knob.high)

    return {knob.name: domain(knob) for knob in task.knobs}


class _Random:
    """Random search: independent draws, as BasicVariantGenerator makes them of the same space."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._rng = task, np.random.default_rng(seed)

    def suggest(self, trial_id: str) -> Config:
        return self._task.sample(self._rng)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass


def _searcher(name: str, task: Task, seed: int) -> Any:
    if name == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed)
        return OptunaSearch(space=tune_space(task), metric="error", mode="min", sampler=sampler)
    if name == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(space=tune_space(task), metric="error", mode="min", random_state_seed=seed)
    return _Random(task, seed)


def _scheduler(name: str, task: Task, **asha: Any) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    if name == "FIFO":
        return FIFOScheduler()
    return AsyncHyperBandScheduler("training_iteration", "error", "min", **{"max_t": task.max_epochs, **asha})


class RayTune:
    """A searcher (random, optuna or hyperopt) with a scheduler (ASHA or FIFO) and ASHA's arguments."""

    def __init__(self, task: Task, seed: int, searcher: str, scheduler: str, **asha: Any) -> None:
        self._task, self._numbers = task, itertools.count()
        self._search = _searcher(searcher, task, seed)
        self._scheduler = _scheduler(scheduler, task, **asha)
        self._trials: dict[str, Any] = {}
        self._last: dict[str, dict[str, Any]] = {}
        np.random.seed(seed)  # ASHA draws its bracket from the global generator

    def ask(self) -> Job | None:
        from ray.tune.experiment import Trial

        key = f"{next(self._numbers):05d}"
        config = self._search.suggest(key)
        if config is None:
            return None
        self._trials[key] = Trial("simulated", config=config, trial_id=key, stub=True)
        self._scheduler.on_trial_add(None, self._trials[key])
        return Job(key, config, self._task.max_epochs)

    def tell(self, key: str, epoch: int, error: float, seconds: float) -> bool:
        from ray.tune.schedulers import TrialScheduler

        self._last[key] = {"training_iteration": epoch, "error": error, "trial_id": key, "done": False}
        decision = self._scheduler.on_trial_result(None, self._trials[key], self._last[key])
        if decision == TrialScheduler.STOP:
            self.end(key, epoch, error)
            return False
        self._search.on_trial_result(key, self._last[key])
        return True

    def end(self, key: str, epoch: int, error: float) -> None:
        """Also of a training that ended by itself: Tune sees `done` and stops it."""
        try:
            self._scheduler.on_trial_complete(None, self._trials[key], self._last[key])
            self._search.on_trial_complete(key, result=self._last[key])
        except Exception as problem:  # noqa: BLE001  TuneController.stop_trial logs whatever happens here and goes on
            logging.getLogger(__name__).debug("%s: %s", key, problem)
