"""DeepHyper's CBO by ask and tell with its ASHA stopper, as its Evaluator and RunningJob use them."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from typing import Any

from simulator import Job
from tasks import Task

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")


class DeepHyper:
    """CBO with its defaults, trials run to their end: its stoppers live in the run function, which there is none of."""

    def __init__(self, task: Task, seed: int) -> None:
        from deephyper.hpo import CBO, HpProblem

        problem = HpProblem()
        for knob in task.knobs:
            if knob.options:
                problem.add_hyperparameter(list(knob.options), knob.name)
            else:
                kind = int if knob.integer else float
                domain: Any = (kind(knob.low), kind(knob.high), *(["log-uniform"] if knob.log else []))
                problem.add_hyperparameter(domain, knob.name)
        self._search = CBO(problem, random_state=seed, log_dir=tempfile.mkdtemp(dir="/dev/shm"), verbose=0)
        self._task, self._configs = task, []

    def ask(self) -> Job:
        [config] = self._search.ask(1)
        self._configs.append(config)
        return Job(len(self._configs) - 1, {k.name: config[k.name] for k in self._task.knobs}, self._task.max_epochs)

    def tell(self, key: int, epoch: int, error: float, seconds: float) -> bool:
        return True

    def end(self, key: int, epoch: int, error: float) -> None:
        self._search.tell([(self._configs[key], -error if math.isfinite(error) else "F_diverged")])
