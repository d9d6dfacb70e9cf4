"""What one trial occupies of a worker, and how many a worker has room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpo.config import SweepConfig
from hpo.errors import ClusterError


class Share:
    """CPUs and GPUs of one trial: as the sweep says, else one GPU each where there are any, and the CPUs shared out."""

    def __init__(self, config: SweepConfig) -> None:
        self._tune = config.tune
        self._cpus, self._gpus = 0.0, 0.0
        self.nodes = 1  # that a trial is spread over, once it is divided

    def divide(self, worker: Mapping[str, Any]) -> tuple[float, float]:
        """CPUs and GPUs of a trial, of each of its nodes, by a worker with `cpus` and `gpus`.

        Raises:
            ClusterError, UsageError: a trial asks for more than the worker has, or for what cannot be spread.
        """
        has_cpus, has_gpus, tune = worker["cpus"], worker["gpus"], self._tune
        self.nodes = nodes = tune.nodes_of_trial(has_gpus)
        if tune.trials_per_gpu == "auto" and tune.gpus_per_trial is None and has_gpus:
            raise ClusterError(
                "trials_per_gpu auto is decided by submit.py, from what check.py --probe has measured, but this sweep "
                "was started without it; give a number."
            )
        ranks = tune.ranks // nodes
        gpus = tune.gpus_per_trial / nodes if tune.gpus_per_trial is not None else float(ranks if has_gpus else 0)
        at_once = max(1, int(has_gpus / gpus)) if gpus else max(1, has_cpus // ranks)
        cpus = tune.cpus_per_trial / nodes if tune.cpus_per_trial is not None else float(max(1, has_cpus // at_once))
        if cpus > has_cpus or gpus > has_gpus:
            raise ClusterError(
                f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs of a node, which has {has_cpus} and {has_gpus}; "
                "lower resources_per_trial or ask for more with --cpus-per-task and --gpus-per-node."
            )
        self._cpus, self._gpus = (cpus if at_once <= has_cpus or not gpus else has_cpus / at_once), gpus
        return self._cpus, self._gpus

    def places(self, worker: Mapping[str, Any]) -> int:
        """Trials for which that worker has room; 1 as long as nothing was divided."""
        if not self._cpus and not self._gpus:
            return 1
        by_cpu = worker["cpus"] / self._cpus if self._cpus else math.inf
        by_gpu = worker["gpus"] / self._gpus if self._gpus else math.inf
        return int(min(by_cpu, by_gpu) + 1e-9)
