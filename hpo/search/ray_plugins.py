"""The objects of Ray Tune that a sweep file or a person's Python names: made, told of the sweep, and tried once.

What a searcher or scheduler of Ray's needs of the sweep goes by its public methods only. `rehearse_plugins` does at
submission what the job will do first, so that what cannot work is refused before there is a job.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray.cloudpickle
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from hpo.config import SweepConfig
from hpo.errors import ClusterError, SlurmtuneError, UsageError, nearest
from hpo.layout import SweepDirectory
from hpo.plugins import is_plugin, pickle_name, plugin_name, read_pickle, refuse_class
from hpo.search.ray_scheduler import RayScheduler
from hpo.search.ray_searcher import RaySearcher

_SEEDS = ("seed", "random_state_seed", "random_seed", "random_state")  # what Ray's classes call it
_INNER = ("ray.tune.search", "optuna.samplers")  # where classes among the arguments may be from


def load_plugins(config: SweepConfig, directory: SweepDirectory) -> tuple[RaySearcher | None, RayScheduler | None]:
    """The searcher and the scheduler of the sweep in `directory` as far as they are of Ray Tune.

    Raises:
        UsageError: one cannot be made, does not fit the sweep, or is another user's pickle.
    """
    found: dict[str, Any] = {}
    for role in ("searcher", "scheduler"):
        value = getattr(config.tune, role)
        if is_plugin(value):
            content = read_pickle(directory.secrets / pickle_name(role)) if "pickle" in value else None
            found[role] = make(role, value, content, config.seed)
    return _adapt(config, found)


def rehearse_plugins(config: SweepConfig) -> list[str]:
    """Makes them as the job will and asks for one trial and one decision; returns what a person should know.

    Raises:
        UsageError: something in it cannot work; says what.
    """
    found = {
        role: make(role, value, config.attachments.get(pickle_name(role)), config.seed)
        for role in ("searcher", "scheduler")
        if is_plugin(value := getattr(config.tune, role))
    }
    if not found:
        return []
    try:
        searcher, scheduler = _adapt(config, found)
        if searcher:
            searcher.suggest("0000")
        return scheduler.rehearse() if scheduler else []
    except ClusterError as error:
        raise UsageError(str(error)) from None


def dump(role: str, instance: Any) -> tuple[dict[str, str], bytes]:
    """How a person's instance stands in a sweep file, and its pickle.

    Raises:
        UsageError: it is none of Ray Tune's, cannot work here, or cannot be pickled.
    """
    cls = type(instance)
    refuse_class(role, cls.__name__)
    _check_class(role, cls)
    _carry_along(cls)
    try:
        content = ray.cloudpickle.dumps(instance)
    except Exception as error:  # whatever a person's class does when it is pickled
        raise UsageError(
            f"{role}: the {cls.__name__} cannot be pickled ({type(error).__name__}: {error}); without it there is no "
            "way to the job."
        ) from None
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "pickle": pickle_name(role)}, content


def make(role: str, value: Mapping[str, Any], content: bytes | None, seed: int) -> Any:
    """The object itself: from a pickle, or by its class and arguments. A seed that was not given is the sweep's.

    Raises:
        UsageError: there is no such class, or it does not take these arguments.
    """
    random.seed(seed)  # Ray's schedulers draw from the global generators
    np.random.seed(seed)  # noqa: NPY002
    name = plugin_name(value)
    try:
        if content is not None:
            made = ray.cloudpickle.loads(content)
        else:
            cls = _find_class(role, str(value["class"]))
            _check_class(role, cls)
            made = _construct(role, cls, {key: item for key, item in value.items() if key != "class"}, seed)
    except SlurmtuneError:
        raise
    except Exception as error:  # whatever its constructor says of the arguments, or of a package that is missing
        raise UsageError(f"{role} {name} cannot be made: {_one_line(error)}.") from None
    _check_class(role, type(made))
    return made


def _adapt(config: SweepConfig, found: Mapping[str, Any]) -> tuple[RaySearcher | None, RayScheduler | None]:
    """With the sweep told to both."""
    searcher = scheduler = None
    with quiet():
        if "searcher" in found:
            searcher = RaySearcher(found["searcher"], config)
        if "scheduler" in found:
            scheduler = RayScheduler(found["scheduler"], config)
    return searcher, scheduler


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna and Ray tell each step on stderr; the journal has it."""
    for name in ("optuna", "hyperopt", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield


def _find_class(role: str, path: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{role}: {module} cannot be imported ({error}); install it where the job runs.") from None
    cls = getattr(package, name, None)
    if not isinstance(cls, type):
        known = [key for key, item in vars(package).items() if isinstance(item, type)]
        raise UsageError(f"{role}: {module} has no class {name}.{nearest(name, known)}")
    return cls


def _check_class(role: str, cls: type) -> None:
    kinds = {"searcher": (Searcher, BasicVariantGenerator), "scheduler": (TrialScheduler,)}
    if not issubclass(cls, kinds.pop(role)):
        [(other, theirs)] = kinds.items()
        hint = f"it is a {other}" if issubclass(cls, theirs) else "use one of theirs, or ours by name"
        raise UsageError(f"{role}: {cls.__name__} is no {role} of Ray Tune; {hint}.")


def _construct(role: str, cls: type, arguments: dict[str, Any], seed: int) -> Any:
    known = inspect.signature(cls).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for key in arguments:
        if key not in known and not open_ended:
            raise UsageError(f"{role} {cls.__name__} has no argument {key!r}.{nearest(key, known)}")
    values = {key: _inner(role, item, seed) for key, item in arguments.items()}
    own = next((key for key in _SEEDS if key in known), None)
    if own and own not in values and "sampler" not in values:
        values[own] = seed
    return cls(**values)


def _inner(role: str, value: Any, seed: int) -> Any:
    """An argument that is itself a class with arguments: a searcher that another wraps, a sampler of Optuna's."""
    if not isinstance(value, Mapping) or "class" not in value:
        return value
    path = str(value["class"])
    refuse_class(role, plugin_name(value))
    if not path.startswith(tuple(f"{package}." for package in _INNER)):
        raise UsageError(f"{role}: {path} is not taken as an argument; only classes of {' and '.join(_INNER)} are.")
    return _construct(role, _find_class(role, path), {k: v for k, v in value.items() if k != "class"}, seed)


def _carry_along(cls: type) -> None:
    """A class of the person's own module goes into the pickle whole: the job may not find the module."""
    for each in cls.__mro__:
        module = sys.modules.get(each.__module__)
        path = getattr(module, "__file__", None)
        if module is None or path is None or each.__module__ == "__main__":
            continue
        installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
        if not installed and each.__module__.partition(".")[0] not in {"hpo", *sys.stdlib_module_names}:
            ray.cloudpickle.register_pickle_by_value(module)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
