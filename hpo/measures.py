"""What is measured of a model before it is trained, for `constraints` and `objectives` of a sweep file.

constraints: {parameters: 5e6, memory_gb: 20}   # a trial beyond one of them is not trained
objectives: [parameters]                         # to be small as well, beside a good metric
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpo.errors import UsageError, nearest
from hpo.plugins import ROLES, is_plugin
from hpo.tuneconfig import TuneConfig

MEASURES = {
    "parameters": "weights of the model with its classifier",
    "latency_ms": "milliseconds for one image, from pixels to outputs, on the trial's device",
    "memory_gb": "10**9 bytes of a training's weights, gradients and what is kept of a micro-batch for the way back",
}


def parse_constraints(given: Any) -> dict[str, float]:
    """The largest permitted value of each measure.

    Raises:
        UsageError: an unknown measure, or a limit that is no number above 0.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"constraints must map {' or '.join(MEASURES)} to its largest value, got {given!r}.")
    for name, limit in given.items():
        _check_measure("constraints", name)
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if not number or not 0 < limit < math.inf:
            raise UsageError(f"constraints.{name} must be a number above 0, got {limit!r}.")
    return {name: float(limit) for name, limit in given.items()}


def parse_objectives(given: Any) -> tuple[str, ...]:
    """The measures that are to be small, beside the metric.

    Raises:
        UsageError: an unknown measure, or one named twice.
    """
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(f"objectives must be a list of {' or '.join(MEASURES)}, got {given!r}.")
    for name in given:
        _check_measure("objectives", name)
    if len(set(given)) < len(given):
        raise UsageError(f"objectives names one twice: {', '.join(given)}; each may be there once.")
    return tuple(given)


def check_measured(constraints: Mapping[str, float], objectives: Sequence[str], tune: TuneConfig) -> None:
    """Refuses beside them what looks at the metric alone, and times in a sweep that is to go the same way again.

    Raises:
        UsageError: there is such a key.
    """
    foreign = next((role for role in ROLES if is_plugin(getattr(tune, role))), "")
    clash = (
        f"a {foreign} of Ray Tune's" if foreign
        else "plateau" if tune.plateau is not None
        else f"scheduler_init_args.type: {tune.asha_type}" if tune.asha_type != "stopping"
        else ""
    )  # fmt: skip
    if objectives and clash:
        raise UsageError(f"{clash} looks at the metric alone; leave it out, or leave out objectives.")
    if tune.deterministic and "latency_ms" in (*constraints, *objectives):
        raise UsageError(
            f"deterministic: {tune.deterministic} cannot be with latency_ms, which is another at each measurement; "
            "leave out one of them."
        )


def _check_measure(where: str, name: Any) -> None:
    if name not in MEASURES:
        raise UsageError(f"{where}: nothing measures {name!r}.{nearest(str(name), MEASURES)} Known: "
                         f"{', '.join(MEASURES)}.")  # fmt: skip
