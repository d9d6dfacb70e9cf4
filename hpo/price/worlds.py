"""Learning curves that could be: what a simulated sweep lets its trials report.

A configuration's quality is a sum over the space: each option of a choice has its own worth, each range a best place,
each dimension its own weight, all drawn anew for each world, and a part that no dimension explains. Errors fall
exponentially towards what the quality permits, at a speed of their own, with noise. So early ranks say something of
final ones but not all, as ASHA meets it. What a sweep costs depends on ranks alone, not on the values.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpo.space import Choice, Dimension, Space
from hpo.trialconfig import default_value

_UNEXPLAINED = 0.5  # deviation of the part of a quality that no dimension explains, dimensions having 1 together
_NOISE = 0.01  # deviation of an epoch's error
_SPEED, _SPREAD = math.log(4.0), 0.5  # of the exponential over a whole training: median and deviation, logarithms
_WIDTH = 0.4  # of a range's good place, as a share of the range


@dataclass(frozen=True)
class SimulatedCurve:
    """errors after each epoch, and the seconds of each."""

    errors: list[float]
    seconds: list[float]


class World:
    """`seconds(params)`: of an epoch; `extra(params)`: that the first one takes longer, asked for in the order in which
    trials begin. Called with a configuration's parameters, fixed ones included."""

    def __init__(
        self,
        space: Space,
        seed: int,
        seconds: Callable[[Mapping[str, Any]], float],
        extra: Callable[[Mapping[str, Any]], float] = lambda params: 0.0,
    ) -> None:
        self._random = random.Random(seed)
        self._space, self._seconds, self._extra = space, seconds, extra
        weights = [self._random.expovariate(1) for _ in space.dimensions]
        norm = math.sqrt(sum(weight**2 for weight in weights)) or 1.0
        self._weights = [weight / norm for weight in weights]
        self._worth = [self._draw(dimension) for dimension in space.dimensions]

    def __call__(self, params: Mapping[str, Any]) -> SimulatedCurve:
        epochs = int(params.get("optim.max_epochs", default_value("optim.max_epochs")))
        parts = zip(self._weights, self._worth, self._space.dimensions, strict=True)
        quality = sum(weight * worth(params[dimension.key]) for weight, worth, dimension in parts
                      if dimension.key in params and dimension.domain.contains(params[dimension.key]))  # fmt: skip
        quality += self._random.gauss(0, _UNEXPLAINED)
        final = 0.6 / (1 + math.exp(quality))  # 0 to 0.6
        speed = math.exp(self._random.gauss(_SPEED, _SPREAD))
        errors = [
            final + (0.9 - final) * math.exp(-speed * epoch / epochs) + self._random.gauss(0, _NOISE)
            for epoch in range(1, epochs + 1)
        ]
        seconds = self._seconds(params)
        return SimulatedCurve(errors, [seconds + self._extra(params), *[seconds] * (epochs - 1)])

    def _draw(self, dimension: Dimension) -> Callable[[Any], float]:
        domain = dimension.domain
        if isinstance(domain, Choice):
            worth = {json.dumps(option): self._random.gauss(0, 1) for option in domain.options}
            return lambda value: worth[json.dumps(value)]
        best = self._random.random()

        def of_range(value: float) -> float:
            low, high, at = ((math.log(x) if domain.log else x) for x in (domain.low, domain.high, value))
            unit = (at - low) / ((high - low) or 1.0)
            return 1 - ((unit - best) / _WIDTH) ** 2

        return of_range
