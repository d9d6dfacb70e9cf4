"""Evidence of the epochs between rungs, for bench/search/variants.py."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from hpo.records import Trial
from hpo.search.asha import rung_epochs
from hpo.search.evidence import Evidence, _ranks, encode
from hpo.search.scheduler import trial_epochs
from hpo.space import Space

_POWERS = (0.1, 0.25, 0.5, 1.0, 2.0)


class FinerLevels:
    """Trials compared at `between` levels between any two rungs, and as many before the first."""

    def __init__(self, shares: Sequence[Fraction], between: int) -> None:
        ends = [float(shares[0]) / 3, *map(float, shares)]
        steps = np.arange(between + 1) / (between + 1)
        finer = np.concatenate([low * (high / low) ** steps for low, high in zip(ends, ends[1:], strict=False)])
        self._shares, self._between = [*finer[1:], 1.0], between  # the first lies a whole rung below, and is left out
        self._values: dict[str, list[float]] = {}
        self._whole: set[str] = set()

    def gather(self, space: Space, trials: Collection[Trial]) -> Evidence:
        """As hpo.search.evidence.gather, over the finer levels."""
        for trial in trials:
            if trial.id not in self._whole:
                self._values[trial.id] = self._read(space, trial)
            if trial.finished:
                self._whole.add(trial.id)
        valued = [trial for trial in trials if self._values[trial.id]]
        busy = [trial.params for trial in trials if not self._values[trial.id] and not trial.finished]
        params, rung = [t.params for t in valued], np.array([len(self._values[t.id]) - 1 for t in valued], int)
        known = np.full((len(valued), len(self._shares)), math.inf)
        for row, trial in zip(known, valued, strict=True):
            row[: len(self._values[trial.id])] = self._values[trial.id]
        score = link(known, rung)
        none = np.zeros(len(valued), bool)
        return Evidence(encode(space, params), score, rung, encode(space, busy), params, none)

    def _read(self, space: Space, trial: Trial) -> list[float]:
        """The best value up to each level that `trial` has come to."""
        epochs = trial_epochs(space, trial)
        errors = _errors(trial)
        best = np.minimum.accumulate(errors) if len(errors) else errors
        levels = [max(1, math.ceil(share * epochs - 1e-9)) for share in self._shares]
        values = [float(best[level - 1]) for level in levels if level <= len(best) and math.isfinite(errors[level - 1])]
        diverged = len(errors) and not math.isfinite(errors[-1]) and len(values) < len(levels)
        return [*values, math.inf] if diverged else values


def link(known: np.ndarray, rung: np.ndarray) -> np.ndarray:
    """Scores linked by ranks from level to level, as hpo.search.evidence has them from rung to rung."""
    score = np.zeros(len(known))
    for at in range(int(rung.max(initial=-1)) + 1):
        members = np.flatnonzero(rung >= at)
        ranks = _ranks(known[members, at])
        if at == 0:
            score[members] = -np.log(ranks / (len(ranks) + 1))
        else:
            score[members] = np.interp(ranks, np.arange(1, len(ranks) + 1), -np.sort(-score[members]))
    return score


def extrapolate(values: Sequence[Any], trial: Trial, space: Space, shares: Sequence[Fraction]) -> float | None:
    """The value that the curve of a trial at work points to at the rung after its `values`; None where it is not at
    work, or is known for less than four epochs or none since its last rung."""
    rungs, errors = rung_epochs(shares, trial_epochs(space, trial)), _errors(trial)
    place = len(values)
    if trial.finished or not 0 < place < len(rungs) or values[-1] is None:
        return None
    return power_law(errors, rungs[place]) if len(errors) > max(3, rungs[place - 1]) else None


def power_law(errors: np.ndarray, epoch: int) -> float:
    """Value at `epoch`: c + a / t^b with a >= 0 by least squares for each b of _POWERS, late epochs counting more, and
    the mean of these curves, each by its likelihood."""
    errors, t = np.minimum.accumulate(errors), np.arange(1, len(errors) + 1.0)
    weights = t / t.sum()
    mean, found, misfit = float(weights @ errors), [], []
    for power in _POWERS:
        shape = t**-power
        centre = weights @ shape
        slope = max(0.0, (weights * (shape - centre)) @ (errors - mean) / (weights @ (shape - centre) ** 2 + 1e-12))
        found.append(mean + slope * (epoch**-power - centre))
        misfit.append(weights @ (errors - mean - slope * (shape - centre)) ** 2 + 1e-12)
    likelihood = (min(misfit) / np.array(misfit)) ** (len(t) / 2)
    return float(min(errors[-1], likelihood @ np.array(found) / likelihood.sum()))


def _errors(trial: Trial) -> np.ndarray:
    values = [trial.first[epoch].get("error") for epoch in sorted(trial.first)]
    return np.array([math.inf if value is None else value for value in values], float)
