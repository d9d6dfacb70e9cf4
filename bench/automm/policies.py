"""Two ways to search the same space: AutoMM's, rebuilt from its stock parts, and slurmtune's.

Both are asked for one trial at a time and told each epoch, by the same trial code, so that they differ in what they
suggest, in what they stop, and in which trial they take in the end.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np

from hpo.config import SweepConfig, build_sweep
from hpo.records import Journal
from hpo.search.sweep import Sweep

SPACE = {  # of AutoMM's preset medium_quality_hpo, with models and batch sizes for two CPU cores
    "model.timm_image.checkpoint_name": {"choice": ["test_resnet", "test_efficientnet"]},
    "optim.lr": {"loguniform": [1e-5, 1e-2]},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "env.batch_size": {"choice": [64, 128, 256]},
}


def configure(data: Path, size: int, trials: int, epochs: int, seed: int) -> SweepConfig:
    """The sweep of both; three best epochs are kept for the soup, as AutoMM does."""
    fixed = {
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": size,
        "optim.max_epochs": epochs,
        "env.num_workers": 1,
        "env.accelerator": "cpu",
    }
    tune = {"num_trials": trials, "num_to_keep": 3}
    document = {
        "data": str(data),
        "seed": seed,
        "hyperparameters": {**fixed, **SPACE},
        "hyperparameter_tune_kwargs": tune,
    }
    return build_sweep(document, data, "", data, "bench")


class AutoMM:
    """AutoGluon 1.6: HyperOptSearch, AsyncHyperBandScheduler(max_t=9999) with Ray's defaults, best trial by its last
    value. Called in the order of Ray's TuneController. It reports each half epoch, here each epoch: its first cut is
    after a whole one."""

    def __init__(self, config: SweepConfig, folder: Path) -> None:
        from ray import tune
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.hyperopt import HyperOptSearch

        logging.disable(logging.WARNING)
        words = {"choice": tune.choice, "loguniform": lambda ends: tune.loguniform(*ends)}
        space = {name: words[word](value) for name, domain in SPACE.items() for word, value in domain.items()}
        self._metric, self._left = config.metric, config.tune.num_trials
        self._search = HyperOptSearch(space, metric=config.metric, mode=config.mode, random_state_seed=config.seed)
        self._scheduler = AsyncHyperBandScheduler(
            "training_iteration", config.metric, config.mode, max_t=9999, grace_period=1, reduction_factor=4
        )
        self._numbers = itertools.count()
        self._trials: dict[str, Any] = {}
        self._last: dict[str, dict[str, Any]] = {}
        np.random.seed(config.seed)  # ASHA draws its bracket from the global generator

    def ask(self) -> tuple[str, dict[str, Any]] | None:
        from ray.tune.experiment import Trial

        if len(self._trials) == self._left:
            return None
        key = f"{next(self._numbers):04d}"
        params = self._search.suggest(key)
        self._trials[key] = Trial("bench", config=params, trial_id=key, stub=True)
        self._scheduler.on_trial_add(None, self._trials[key])
        return key, params

    def tell(self, key: str, epoch: int, metrics: dict[str, Any], end: str) -> bool:
        result = {"training_iteration": epoch, self._metric: metrics[self._metric], "trial_id": key, "done": bool(end)}
        self._last[key] = result
        stopped = not end and self._scheduler.on_trial_result(None, self._trials[key], result) == "STOP"
        if not end and not stopped:
            self._search.on_trial_result(key, result)
            return True
        self._scheduler.on_trial_complete(None, self._trials[key], result)
        self._search.on_trial_complete(key, result=result)
        return False

    def best(self) -> str:
        last = {key: result[self._metric] for key, result in self._last.items() if np.isfinite(result[self._metric])}
        return max(last, key=lambda key: last[key])


class Ours:
    """What slurmtune's driver runs: bayes and ASHA by default, best trial by its best epoch."""

    def __init__(self, config: SweepConfig, folder: Path) -> None:
        self._sweep = Sweep(config, Journal(folder / "journal.jsonl"), "bench")
        self._sweep.start_attempt(job="", host="bench", nodes=1)

    def ask(self) -> tuple[str, dict[str, Any]] | None:
        trial = self._sweep.next_trial()
        if trial is None:
            return None
        self._sweep.start_trial(trial.id, "bench")
        return trial.id, dict(trial.params)

    def tell(self, key: str, epoch: int, metrics: dict[str, Any], end: str) -> bool:
        rest = {name: value for name, value in metrics.items() if name not in ("epoch", "checkpoint")}
        return self._sweep.report(key, epoch, rest, f"trials/{key}/{metrics['checkpoint']}", end)

    def best(self) -> str:
        return self._sweep.state.ranking()[0].id


POLICIES = {"slurmtune": Ours, "AutoMM's policy": AutoMM}
