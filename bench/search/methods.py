"""Every method of the table by name: a peer's classes and their arguments. `*-rungs` are peers given our rungs."""

from __future__ import annotations

import math
from typing import Any

from simulator import Tuner
from tasks import Config, Task

VARIANT_NAMES = ("finer", "extrapolated", "weighted", "bandit", "near-best", "near-default", "sobol", "optuna-gp")


def our_grace(task: Task) -> int:
    """The first rung that slurmtune would place (hpo.search.asha.place_rungs): after a warm-up of 10 % where the task
    has one, at no less than 5 % of the epochs."""
    warmup = 0.1 * task.max_epochs if task.epochs_knob else 0.0
    return max(1, math.ceil(0.05 * task.max_epochs), math.floor(warmup) + 1)


def _ours(task: Task, seed: int, first: Config, **tune: Any) -> Tuner:
    from ours import Ours

    return Ours(task, seed, first, **tune)


def _variant(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from ours import Ours
    from variants import VARIANTS

    return Ours(task, seed, first, sweep=VARIANTS[arguments["name"]], searcher="bayes")


def _ray(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_ray import RayTune

    if arguments.pop("rungs", False):
        arguments |= {"grace_period": our_grace(task), "reduction_factor": 3}
    return RayTune(task, seed, **arguments)


def _optuna(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_optuna import Optuna

    return Optuna(task, seed, arguments["pruner"], our_grace(task) if arguments.get("rungs") else None)


def _syne(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_synetune import SyneTune

    if arguments.pop("rungs", False):
        arguments |= {"grace_period": our_grace(task)}
    return SyneTune(task, seed, **arguments)


def _neps(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_neps import NePS

    if arguments.pop("rungs", False):
        arguments |= {"grace": our_grace(task)}
    return NePS(task, seed, first=first, **arguments)


def _smac(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_smac import SMAC

    if arguments.pop("rungs", False):
        arguments |= {"grace": our_grace(task)}
    return SMAC(task, seed, **arguments)


def _deephyper(task: Task, seed: int, first: Config, **arguments: Any) -> Tuner:
    from peers_deephyper import DeepHyper

    return DeepHyper(task, seed)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bayes": (_ours, {"searcher": "bayes"}),
    **{f"bayes-{name}": (_variant, {"name": name}) for name in VARIANT_NAMES},
    "random-asha": (_ours, {"searcher": "random"}),
    "random-fifo": (_ray, {"searcher": "random", "scheduler": "FIFO"}),
    "ray-random-asha": (_ray, {"searcher": "random", "scheduler": "ASHA"}),
    "ray-optuna-asha": (_ray, {"searcher": "optuna", "scheduler": "ASHA"}),
    "ray-optuna-asha-rungs": (_ray, {"searcher": "optuna", "scheduler": "ASHA", "rungs": True}),
    "ray-optuna-fifo": (_ray, {"searcher": "optuna", "scheduler": "FIFO"}),
    "ray-hyperopt-asha": (_ray, {"searcher": "hyperopt", "scheduler": "ASHA"}),
    "ray-hyperopt-asha-rungs": (_ray, {"searcher": "hyperopt", "scheduler": "ASHA", "rungs": True}),
    "ray-hyperopt-fifo": (_ray, {"searcher": "hyperopt", "scheduler": "FIFO"}),
    "automm": (_ray, {"searcher": "hyperopt", "scheduler": "ASHA", "max_t": 9999, "grace_period": 1,
                      "reduction_factor": 4}),
    "optuna-sha": (_optuna, {"pruner": "sha"}),
    "optuna-sha-rungs": (_optuna, {"pruner": "sha", "rungs": True}),
    "optuna-hyperband": (_optuna, {"pruner": "hyperband"}),
    "syne-asha": (_syne, {"name": "ASHA"}),
    "syne-asha-rungs": (_syne, {"name": "ASHA", "rungs": True}),
    "syne-bohb": (_syne, {"name": "BOHB"}),
    "syne-bohb-rungs": (_syne, {"name": "BOHB", "rungs": True}),
    "syne-ashabore": (_syne, {"name": "ASHABORE"}),
    "syne-ashabore-rungs": (_syne, {"name": "ASHABORE", "rungs": True}),
    "syne-ashacqr": (_syne, {"name": "ASHACQR"}),
    "syne-ashacqr-rungs": (_syne, {"name": "ASHACQR", "rungs": True}),
    "neps-asha": (_neps, {"name": "asha"}),
    "neps-asha-rungs": (_neps, {"name": "asha", "rungs": True}),
    "neps-priorband": (_neps, {"name": "priorband", "base": "async_hb"}),
    "neps-priorband-rungs": (_neps, {"name": "priorband", "base": "async_hb", "rungs": True}),
    "smac-hyperband": (_smac, {"facade": "HyperbandFacade"}),
    "smac-multifidelity": (_smac, {"facade": "MultiFidelityFacade"}),
    "smac-multifidelity-rungs": (_smac, {"facade": "MultiFidelityFacade", "rungs": True}),
    "deephyper": (_deephyper, {}),
}  # fmt: skip


def make_tuner(method: str, task: Task, seed: int, first: Config, workers: int) -> Tuner:
    """`first`: the default configuration of the run, for those that start with one. `workers`: for those that ask."""
    make, arguments = METHODS[method]
    more = {"workers": workers} if make is _smac else {}
    return make(task, seed, first, **arguments, **more)
