"""Optuna's ask, report, should_prune and tell, as Study.optimize calls them; default TPE with its own pruners."""

from __future__ import annotations

import math
from typing import Any

from simulator import Job
from tasks import Task


class Optuna:
    """`pruner`: sha or hyperband. `rungs`: our first rung and reduction, where the pruner takes them."""

    def __init__(self, task: Task, seed: int, pruner: str, grace: int | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if pruner == "sha":
            chosen: Any = optuna.pruners.SuccessiveHalvingPruner(
                **({"min_resource": grace, "reduction_factor": 3} if grace else {})
            )
        else:
            chosen = optuna.pruners.HyperbandPruner(
                max_resource=task.max_epochs, **({"min_resource": grace, "reduction_factor": 3} if grace else {})
            )
        self._study = optuna.create_study(
            direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=chosen, study_name="simulated"
        )
        self._task, self._trials = task, {}

    def ask(self) -> Job:
        trial = self._study.ask()
        config = {}
        for knob in self._task.knobs:
            if knob.options:
                config[knob.name] = trial.suggest_categorical(knob.name, list(knob.options))
            elif knob.integer:
                config[knob.name] = trial.suggest_int(knob.name, int(knob.low), int(knob.high), log=knob.log)
            else:
                config[knob.name] = trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)
        self._trials[trial.number] = trial
        return Job(trial.number, config, self._task.max_epochs)

    def tell(self, key: int, epoch: int, error: float, seconds: float) -> bool:
        import optuna

        trial = self._trials[key]
        if not math.isfinite(error):
            return True
        trial.report(error, epoch)
        if trial.should_prune():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return False
        return True

    def end(self, key: int, epoch: int, error: float) -> None:
        import optuna

        if math.isfinite(error):
            self._study.tell(self._trials[key], error)
        else:
            self._study.tell(self._trials[key], state=optuna.trial.TrialState.FAIL)
