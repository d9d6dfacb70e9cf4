"""Searchers and schedulers of Ray Tune in a sweep file: a class with its arguments, or an instance that a person made.

    searcher: {class: ray.tune.search.optuna.OptunaSearch, seed: 3}
    scheduler: {class: ray.tune.schedulers.MedianStoppingRule, time_attr: training_iteration, grace_period: 2}

An instance from Python travels as a pickle in the sweep's secrets/, which only its own owner reads. Standard library
only: hpo.search.ray_plugins makes the objects.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.ownership import PRIVATE, UNWRITABLE, check_own, check_status

ROLES = ("searcher", "scheduler")
_POPULATION = (
    "it changes the hyperparameters of a trial while that trains, and a trial here is one configuration; use ASHA, or "
    "another scheduler that stops or pauses"
)
_REFUSED = {  # class -> why not
    "PopulationBasedTraining": _POPULATION,
    "PopulationBasedTrainingReplay": _POPULATION,
    "PB2": _POPULATION,
    "ResourceChangingScheduler": "a trial keeps the CPUs and GPUs of resources_per_trial",
    "HyperBandForBOHB": "it belongs to TuneBOHB; use bayes with ASHA, which shows the model one rung as BOHB does",
    "TuneBOHB": "its package hpbandster is not maintained; use bayes, which shows the model one rung as BOHB does",
    "Repeater": "all trials share the sweep's seed, so the same configuration gives the same again; "
    "launch/retrain.py trains the best with several seeds",
}


def is_plugin(value: Any) -> bool:
    """Whether a searcher or scheduler of a sweep file is a class of Ray Tune and not one of our own names."""
    return isinstance(value, Mapping)


def plugin_name(value: Any) -> str:
    """'OptunaSearch'; of our own its word."""
    return str(value["class"]).rpartition(".")[2] if is_plugin(value) else str(value)


def parse_plugin(role: str, value: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    """The mapping of a sweep file, checked as far as that can be without Ray. `arguments`: what ROLE_init_args holds.

    Raises:
        UsageError: no class, one that cannot work here, or arguments beside it.
    """
    name = value.get("class")
    if not isinstance(name, str) or "." not in name:
        raise UsageError(
            f"{role} must be a name or {{class: package.module.Class, ...}}, got {dict(value)!r}; for example "
            "{class: ray.tune.search.optuna.OptunaSearch}."
        )
    if arguments:
        raise UsageError(f"{role}_init_args goes with a {role} by name; put the arguments beside class: {name}.")
    refuse_class(role, plugin_name(value))
    if "pickle" in value and dict(value) != {"class": name, "pickle": pickle_name(role)}:
        raise UsageError(f"{role}: pickle belongs to an instance that fit(...) was given; name its arguments instead.")
    return dict(value)


def refuse_class(role: str, name: str) -> None:
    """Refuses what cannot do here what it is for.

    Raises:
        UsageError: it is one of these; says why.
    """
    if name in _REFUSED:
        raise UsageError(f"{role} {name} cannot be used: {_REFUSED[name]}.")


def pickle_name(role: str) -> str:
    """The file below secrets/."""
    return f"{role}.pickle"


def read_pickle(path: Path) -> bytes:
    """The content of a pickle, which runs code when it is loaded: only this user's own, in a directory of theirs alone.

    Raises:
        UsageError: it is missing, or somebody else owns it or could have written it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); start the sweep anew from Python.") from None
    with os.fdopen(handle, "rb") as stream:
        check_own(path.parent, PRIVATE)
        check_status(path, os.fstat(handle), UNWRITABLE)
        return stream.read()
