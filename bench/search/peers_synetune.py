"""Syne Tune's schedulers, called as its Tuner calls them (0.16: suggest, on_trial_add, on_trial_result, ...)."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import math
from typing import Any

from simulator import Job
from tasks import Task

logging.disable(logging.WARNING)


class SyneTune:
    """`name`: ASHA, BOHB, ASHABORE or ASHACQR of syne_tune.optimizer.baselines."""

    def __init__(self, task: Task, seed: int, name: str, **arguments: Any) -> None:
        from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
        from syne_tune.optimizer import baselines

        space: dict[str, Any] = {}
        for knob in task.knobs:
            if knob.options:
                space[knob.name] = choice(list(knob.options))
            elif knob.integer:
                space[knob.name] = (lograndint if knob.log else randint)(int(knob.low), int(knob.high))
            else:
                space[knob.name] = (loguniform if knob.log else uniform)(knob.low, knob.high)
        self._scheduler = getattr(baselines, name)(
            space, metric="error", time_attr="epoch", max_t=task.max_epochs, do_minimize=True, random_seed=seed,
            **arguments,
        )  # fmt: skip
        self._task, self._numbers, self._trials = task, itertools.count(), {}
        self._worst = 1.0

    def ask(self) -> Job | None:
        from syne_tune.backend.trial_status import Trial

        suggestion = self._scheduler.suggest()
        if suggestion is None:
            return None
        key = next(self._numbers)
        config = {knob.name: suggestion.config[knob.name] for knob in self._task.knobs}
        self._trials[key] = Trial(key, suggestion.config, datetime.datetime.now())
        self._scheduler.on_trial_add(self._trials[key])
        return Job(key, config, self._task.max_epochs)

    def tell(self, key: int, epoch: int, error: float, seconds: float) -> bool:
        if not math.isfinite(error):
            return True
        self._worst = max(self._worst, error)
        decision = self._scheduler.on_trial_result(self._trials[key], {"error": error, "epoch": epoch})
        return str(decision) != "STOP"

    def end(self, key: int, epoch: int, error: float) -> None:
        if not math.isfinite(error):  # a script that stops at NaN ends in an error: the Tuner says on_trial_error
            with contextlib.suppress(KeyError):
                self._scheduler.on_trial_error(self._trials[key])
            return
        self._scheduler.on_trial_complete(self._trials[key], {"error": error, "epoch": epoch})
