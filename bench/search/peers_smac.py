"""SMAC's multi-fidelity facades by ask and tell. They pause at a budget; going on costs only the further epochs."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path
from typing import Any

from simulator import Job
from tasks import Task

logging.disable(logging.WARNING)


class SMAC:
    """`facade`: HyperbandFacade or MultiFidelityFacade (its random forest with Hyperband)."""

    def __init__(self, task: Task, seed: int, facade: str, workers: int, grace: int = 1) -> None:
        import smac
        from ConfigSpace import ConfigurationSpace, Float, Integer, OrdinalHyperparameter

        space = ConfigurationSpace(seed=seed)
        for knob in task.knobs:
            if knob.options:
                space.add(OrdinalHyperparameter(knob.name, list(knob.options)))
            elif knob.integer:
                space.add(Integer(knob.name, (int(knob.low), int(knob.high)), log=knob.log))
            else:
                space.add(Float(knob.name, (knob.low, knob.high), log=knob.log))
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        scenario = smac.Scenario(
            space, deterministic=True, n_trials=10**6, min_budget=grace, max_budget=task.max_epochs, seed=seed,
            output_directory=folder,
        )  # fmt: skip
        self._smac = getattr(smac, facade)(scenario, lambda config, seed, budget: 0.0, overwrite=True,
                                           logging_level=False)  # fmt: skip
        self._task, self._worst, self._asked = task, 1.0, {}
        self._keys: dict[Any, int] = {}

    def ask(self) -> Job | None:
        info = self._smac.ask()
        if info is None:
            return None
        config = {knob.name: info.config[knob.name] for knob in self._task.knobs}
        key = self._keys.setdefault(tuple(config.values()), len(self._keys))
        self._asked[key] = info
        return Job(key, config, max(1, round(info.budget)))

    def tell(self, key: int, epoch: int, error: float, seconds: float) -> bool:
        return True

    def end(self, key: int, epoch: int, error: float) -> None:
        from smac.runhistory import TrialValue

        self._worst = max(self._worst, error if math.isfinite(error) else 0.0)
        self._smac.tell(self._asked[key], TrialValue(cost=error if math.isfinite(error) else 2 * self._worst))
