"""How the search goes: AutoMM's hyperparameter_tune_kwargs as a sweep file gives them, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError, nearest
from hpo.plugins import is_plugin, parse_plugin

SEARCHERS, SCHEDULERS = ("bayes", "random"), ("ASHA", "FIFO")
ASHA_TYPES = ("auto", "stopping", "promotion")
TUNE_KEYS = (
    "searcher",
    "searcher_init_args",
    "scheduler",
    "scheduler_init_args",
    "num_trials",
    "target",
    "plateau",
    "num_to_keep",
    "checkpoint_budget_gb",
    "resources_per_trial",
    "hang_timeout",
    "deterministic",
)


RESOURCES = ("num_cpus", "num_gpus", "num_processes", "num_nodes", "trials_per_gpu", "cpu", "gpu")
_SHORT = {"cpu": "num_cpus", "gpu": "num_gpus"}  # as Ray says it


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How the search goes: AutoMM's hyperparameter_tune_kwargs."""

    searcher: str | Mapping[str, Any] = "bayes"  # a mapping: see hpo.plugins
    startup_trials: int | None = None  # random ones before the model; none: see hpo.search.bayes
    scheduler: str | Mapping[str, Any] = "ASHA"
    reduction_factor: int = 3
    grace_period: int | None = None  # the first rung, in epochs; none: see hpo.search.asha
    asha_type: str = "stopping"  # promotion; or auto, what measured costs permit: see hpo.search.scheduler
    num_trials: int = 20
    target: float | None = None  # the metric's value at which the sweep ends
    plateau: int | None = None  # trials in a row without a new best value after which no new one comes
    num_to_keep: int = 3
    checkpoint_budget_gb: float | None = None  # of all trials together, in 10**9 bytes; none: as many as there are
    cpus_per_trial: float | None = None  # none: the node's CPUs shared by its trials
    gpus_per_trial: float | None = None  # none: one a process where the nodes have GPUs
    trials_per_gpu: int | str | None = None  # auto: as many as fit by measured memory, see hpo.price.packing
    num_processes: int | None = None  # that train a trial together; none: one a GPU
    num_nodes: int | None = None  # that a trial is spread over, alike; none: as few as have its GPUs
    hang_timeout: float = 1800  # seconds without a sign of progress after which a trial is ended; 0: never
    deterministic: int | None = None  # so many trials at a time, in an order of their own: see hpo.search.lockstep

    @property
    def ranks(self) -> int:
        """Processes of a trial."""
        return self.num_processes or max(self.num_nodes or 1, int(self.gpus_per_trial or 1))

    def nodes_of_trial(self, gpus: int) -> int:
        """Nodes that a trial is spread over, where each has `gpus` GPUs.

        Raises:
            UsageError: its GPUs cannot be spread alike.
        """
        if self.num_nodes or not gpus or not self.gpus_per_trial:
            return self.num_nodes or 1
        nodes = math.ceil(self.gpus_per_trial / gpus)
        if nodes > 1 and self.gpus_per_trial % nodes:
            raise UsageError(
                f"resources_per_trial.num_gpus {self.gpus_per_trial:g} cannot be spread alike over {nodes} nodes "
                f"of {gpus}; take a multiple of {nodes}."
            )
        return nodes

    @property
    def pauses(self) -> bool:
        """Whether a trial may be paused and go on later."""
        return is_plugin(self.scheduler) or (self.scheduler == "ASHA" and self.asha_type != "stopping")


def parse_tune(values: Mapping[str, Any]) -> TuneConfig:
    """What a sweep file says below hyperparameter_tune_kwargs.

    Raises:
        UsageError: an unknown key, or a value that does not fit it.
    """
    check_names("hyperparameter_tune_kwargs.", values, TUNE_KEYS)
    defaults = TuneConfig()
    who = _searching("searcher", values, defaults.searcher, SEARCHERS)
    how = _searching("scheduler", values, defaults.scheduler, SCHEDULERS)
    searcher = _mapping("searcher_init_args", values, ("startup_trials",))
    scheduler = _mapping("scheduler_init_args", values, ("type", "reduction_factor", "grace_period"))
    resources = _mapping("resources_per_trial", values, RESOURCES)
    resources = {_SHORT.get(name, name): value for name, value in resources.items()}
    return TuneConfig(
        searcher=who,
        startup_trials=_optional("startup_trials", searcher.get("startup_trials"), 1),
        scheduler=how,
        reduction_factor=check_whole(
            "reduction_factor", scheduler.get("reduction_factor", defaults.reduction_factor), 2
        ),
        asha_type=_word("type", scheduler.get("type", defaults.asha_type), ASHA_TYPES),
        grace_period=_optional("grace_period", scheduler.get("grace_period"), 1),
        num_trials=check_whole("num_trials", values.get("num_trials", defaults.num_trials), 1),
        target=_number("target", values.get("target")),
        plateau=_optional("plateau", values.get("plateau"), 1),
        num_to_keep=check_whole("num_to_keep", values.get("num_to_keep", defaults.num_to_keep), 1),
        checkpoint_budget_gb=_size("checkpoint_budget_gb", values.get("checkpoint_budget_gb")),
        cpus_per_trial=_amount("num_cpus", resources.get("num_cpus")),
        gpus_per_trial=_gpus(resources),
        trials_per_gpu=resources.get("trials_per_gpu"),
        num_processes=_processes(resources),
        num_nodes=_nodes(resources),
        hang_timeout=_seconds("hang_timeout", values.get("hang_timeout", defaults.hang_timeout)),
        deterministic=_deterministic(values, who, how),
    )


def _searching(role: str, values: Mapping[str, Any], default: Any, known: Sequence[str]) -> str | Mapping[str, Any]:
    """One of our own by name, or a class of Ray Tune's."""
    value = values.get(role, default)
    if is_plugin(value):
        return parse_plugin(role, value, values.get(f"{role}_init_args"))
    try:
        return _word(role, value, known)
    except UsageError as error:
        example = "search.optuna.OptunaSearch" if role == "searcher" else "schedulers.MedianStoppingRule"
        raise UsageError(f"{error} Ray Tune's are named by class: {{class: ray.tune.{example}}}.") from None


def check_names(where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses a key that is not `known`, naming the nearest that is."""
    for name in values:
        if name not in known:
            raise UsageError(f"unknown key {where}{name}.{nearest(str(name), known)} Known: {', '.join(known)}.")


def check_whole(name: str, value: Any, low: int) -> int:
    """`value` as a whole number of at least `low`."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UsageError(f"{name} must be a whole number of at least {low}, got {value!r}.")
    return value


def _mapping(name: str, values: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Any]:
    inner = values.get(name) or {}
    if not isinstance(inner, Mapping):
        raise UsageError(f"{name} must be a mapping, got {inner!r}.")
    check_names(f"{name}.", inner, known)
    return inner


def _word(name: str, value: Any, known: Sequence[str]) -> str:
    for word in known:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}.{nearest(str(value), known)}")


def _optional(name: str, value: Any, low: int) -> int | None:
    return None if value is None else check_whole(name, value, low)


def _deterministic(values: Mapping[str, Any], *guides: str | Mapping[str, Any]) -> int | None:
    slots = _optional("deterministic", values.get("deterministic"), 1)
    if slots and any(is_plugin(guide) for guide in guides):
        raise UsageError(
            f"deterministic: {slots} is for the searchers {', '.join(SEARCHERS)} and the schedulers "
            f"{', '.join(SCHEDULERS)}, not for Ray Tune's; leave one of both out."
        )
    return slots


def _size(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value <= 0:
        raise UsageError(f"{name} must be a number of gigabytes above 0, got {value!r}.")
    return float(value)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        raise UsageError(f"{name} must be a finite number, got {value!r}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _amount(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value < 0 or (value > 1 and value != int(value)):
        raise UsageError(f"resources_per_trial.{name} must be a whole number or a fraction below 1, got {value!r}.")
    return float(value)


def _gpus(resources: Mapping[str, Any]) -> float | None:
    """Of a trial. With trials_per_gpu its share of one; with auto none yet, which hpo.price.packing decides."""
    gpus, count = _amount("num_gpus", resources.get("num_gpus")), resources.get("trials_per_gpu")
    if count is None:
        return gpus
    if gpus is not None or any((resources.get(name) or 1) != 1 for name in ("num_processes", "num_nodes")):
        raise UsageError(f"resources_per_trial.trials_per_gpu is {count!r}, so num_gpus, num_processes and num_nodes "
                         "follow from it; leave them out.")  # fmt: skip
    return None if count == "auto" else 1 / check_whole("resources_per_trial.trials_per_gpu", count, 1)


def _processes(resources: Mapping[str, Any]) -> int | None:
    count, gpus = _optional("resources_per_trial.num_processes", resources.get("num_processes"), 1), None
    gpus = _amount("num_gpus", resources.get("num_gpus"))
    if count is not None and gpus and max(1, gpus) != count:
        raise UsageError(
            f"resources_per_trial.num_processes is {count} and num_gpus {gpus:g}, but each process has one GPU; leave "
            "num_processes out, or set num_gpus to 0."
        )
    return count


def _nodes(resources: Mapping[str, Any]) -> int | None:
    """Each has the same part of all that a trial is given."""
    count = _optional("resources_per_trial.num_nodes", resources.get("num_nodes"), 1)
    for name in ("num_gpus", "num_processes", "num_cpus"):
        if count and (has := float(resources.get(name) or 0)) % count:
            raise UsageError(
                f"resources_per_trial.{name} {has:g} is for the whole trial, and cannot be spread alike over {count} "
                f"nodes; take a multiple of {count}."
            )
    return count


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UsageError(f"{name} must be a number of seconds, got {value!r}.")
    return float(value)
