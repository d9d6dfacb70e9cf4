"""Search spaces as Python objects, and their form in a sweep file (see hpo.space).

Taken: our own Real, Int, Categorical and Bool below; those of `autogluon.common.space`; the domains of
`ray.tune`. Foreign objects are known by their class and read by their attributes, so neither package is imported or
needed.

    Real(1e-5, 1e-2, log=True)  ->  {'loguniform': [1e-05, 0.01]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError

_GRID = 64  # a stepped domain of more values than this is no list of options any more
_RAY, _AUTOGLUON = "ray.tune.", "autogluon.common.space"


@dataclass(frozen=True)
class Real:
    """Real numbers from `lower` to `upper`. `when` {other key: value or list of values} makes it conditional."""

    lower: float
    upper: float
    default: float | None = None
    log: bool = False
    when: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Int:
    """Whole numbers from `lower` to `upper`, both included."""

    lower: int
    upper: int
    default: int | None = None
    log: bool = False
    when: Mapping[str, Any] | None = None


class Categorical:
    """One of `data`: texts, numbers, booleans, lists or None; or spaces, of which a finite one stands for its values;
    or for a section such as `data.mixup` dicts of its keys, with spaces of their own."""

    def __init__(self, *data: Any, default: Any = None, when: Mapping[str, Any] | None = None) -> None:
        self.data, self.default, self.when = list(data), default, when

    def __repr__(self) -> str:
        return f"Categorical({', '.join(map(repr, self.data))})"


class Bool(Categorical):
    """True or False, as booleans."""

    def __init__(self, default: bool | None = None, when: Mapping[str, Any] | None = None) -> None:
        super().__init__(False, True, default=default, when=when)


def is_domain(value: Any) -> bool:
    """Whether `value` is a search space of one of the three kinds."""
    return isinstance(value, (Real, Int, Categorical)) or _is_autogluon(value) or _is_ray(value)


def searches(value: Any) -> bool:
    """Whether there is anything to search in `value`: a domain, one in the form of a sweep file, or a list of them."""
    if isinstance(value, Mapping):
        return True
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, Mapping) or is_domain(item) for item in value)
    return is_domain(value)


def to_plain(key: str, value: Any) -> Any:
    """`value` of hyperparameter `key` as a sweep file would say it: domains become mappings, all else plain data.

    Raises:
        UsageError: an object that is neither a value nor a space, or a space that cannot be said so.
    """
    if isinstance(value, Mapping):
        return {str(name): to_plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(key, item) for item in value]
    if is_domain(value):
        return _domain(key, value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy's numbers
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UsageError(f"{key}: {value!r} is neither a value nor a search space; use Real, Int, Categorical or Bool.")


def _domain(key: str, value: Any) -> dict[str, Any]:
    if _is_ray(value):
        return _from_ray(key, value)
    name = type(value).__name__
    if name == "Bool":
        plain: dict[str, Any] = {"choice": [False, True]}
    elif name == "Categorical":
        plain = {"choice": _options(key, value.data)}
    elif name == "Real":
        plain = {"loguniform" if value.log else "uniform": [value.lower, value.upper]}
    elif name == "Int":
        plain = {"lograndint" if getattr(value, "log", False) else "randint": [value.lower, value.upper + 1]}
    else:
        raise UsageError(f"{key}: spaces of class {name} are not known; use Real, Int, Categorical or Bool.")
    default = value.default
    if default is not None and not is_domain(default):
        plain["default"] = bool(default) if name == "Bool" else to_plain(key, default)
    if getattr(value, "when", None):
        plain["when"] = to_plain(key, value.when)
    return plain


def _options(key: str, data: Sequence[Any]) -> list[Any]:
    options: list[Any] = []
    for item in data:
        if not is_domain(item):
            options.append(to_plain(key, item))
            continue
        inner = _domain(key, item)
        [word] = [word for word in inner if word not in ("default", "when")]
        if word == "randint" and inner[word][1] - inner[word][0] <= _GRID:
            options += range(*inner[word])
        elif word == "choice" and "when" not in inner:
            options += inner[word]
        else:
            options.append(inner)  # a range, see hpo.options
    return options


def _from_ray(key: str, value: Any) -> dict[str, Any]:
    """Ray's integers leave the upper end out, and so does a sweep file; its qrandint includes it."""
    sampler, step, kind = value.sampler, None, type(value).__name__
    if hasattr(sampler, "q"):
        sampler, step = sampler.sampler, sampler.q
    how = type(sampler).__name__.strip("_")
    if kind == "Categorical":
        return {"choice": _options(key, value.categories)}
    if kind in ("Float", "Integer") and how in ("Uniform", "LogUniform") and _finite(value):
        ends = [value.lower, value.upper]
        if step in (None, 1) and kind == "Integer":
            ends = ends if step is None else [ends[0], ends[1] + 1]
            return {"lograndint" if how == "LogUniform" else "randint": ends}
        if step is None:
            return {"loguniform" if how == "LogUniform" else "uniform": ends}
        if how == "Uniform" and kind == "Float":
            return {"quniform": [*ends, step]}
        if how == "Uniform" and (ends[1] - ends[0]) // step < _GRID:
            return {"choice": list(range(ends[0], ends[1] + 1, step))}
    raise UsageError(
        f"{key}: Ray Tune's {value.domain_str if hasattr(value, 'domain_str') else kind} ({how}) cannot be searched "
        "here; use uniform, loguniform, quniform, randint, lograndint, qrandint or choice."
    )


def _finite(value: Any) -> bool:
    return value.lower is not None and all(math.isfinite(end) for end in (value.lower, value.upper))


def _is_autogluon(value: Any) -> bool:
    return any(cls.__module__ == _AUTOGLUON and cls.__name__ == "Space" for cls in type(value).__mro__)


def _is_ray(value: Any) -> bool:
    return any(cls.__module__.startswith(_RAY) and cls.__name__ == "Domain" for cls in type(value).__mro__)
