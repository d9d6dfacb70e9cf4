"""NePS's optimisers through its AskAndTell. They pause at a rung and may go on with a configuration later."""

from __future__ import annotations

import logging
import math
from typing import Any

from simulator import Job
from tasks import Config, Task

logging.disable(logging.WARNING)


class NePS:
    """`name`: asha, or priorband around the configuration `first`. `grace`: the lowest fidelity."""

    def __init__(self, task: Task, seed: int, name: str, first: Config, grace: int = 1, **arguments: Any) -> None:
        import random

        import neps
        import numpy as np
        import torch

        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        prior = name == "priorband"
        fields: dict[str, Any] = {"fidelity": neps.IntegerFidelity(grace, task.max_epochs)}
        for knob in task.knobs:
            more = {"prior": first[knob.name], "prior_confidence": "medium"} if prior else {}
            if knob.options:
                more = {"prior": knob.options.index(first[knob.name]), "prior_confidence": "medium"} if prior else {}
                fields[knob.name] = neps.Categorical(list(knob.options), **more)
            elif knob.integer:
                fields[knob.name] = neps.Integer(int(knob.low), int(knob.high), log=knob.log, **more)
            else:
                fields[knob.name] = neps.Float(knob.low, knob.high, log=knob.log, **more)
        space = type("Space", (neps.PipelineSpace,), fields)()
        self._loop = neps.AskAndTell(getattr(neps.algorithms, name)(space, **arguments))
        self._task, self._worst = task, 1.0
        self._asked: dict[str, str] = {}  # training -> the trial of NePS that is being evaluated

    def ask(self) -> Job:
        trial = self._loop.ask()
        config = {knob.name: trial.config[knob.name] for knob in self._task.knobs}
        key = trial.metadata.id.split("_")[0]  # <configuration>_<rung>
        self._asked[key] = trial.metadata.id
        return Job(key, config, int(trial.config["fidelity"]))

    def tell(self, key: str, epoch: int, error: float, seconds: float) -> bool:
        return True

    def end(self, key: str, epoch: int, error: float) -> None:
        self._worst = max(self._worst, error if math.isfinite(error) else 0.0)
        told = error if math.isfinite(error) else 2 * self._worst
        self._loop.tell(self._asked[key], {"objective_to_minimize": told, "cost": 1.0})
