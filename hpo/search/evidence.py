"""What the models see of a sweep: each configuration as a point, and one score for each trial.

Values of different rungs cannot be compared, so a trial's score is made of ranks. At the first rung it is -log of the
trial's rank among all that came there: the top is told apart finely, the bottom hardly. Of the trials that reached
the next rung, the best there gets the best of their own earlier scores, the second the second, and so on. Each trial
thus keeps the score of the highest rung that it reached, and all scores are on one scale. (The same linking by ranks
equates two forms of an examination that was taken by partly the same people.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.search.front import weigh
from hpo.space import Choice, Dimension, Params, Space


@dataclass(frozen=True)
class Observation:
    """A configuration and its value at each rung it reached, lowest rung first; None is worst of all (diverged)."""

    params: Params
    values: Sequence[float | None]
    failed: bool = False  # out of the running without a value: neither good nor bad is known
    barred: bool = False  # it cannot be trained, whatever values it had: as bad as any
    costs: tuple[float, ...] = ()  # of the objectives beside the metric, less is better
    earlier: bool = False  # of another sweep, by warm_start


@dataclass(frozen=True)
class Evidence:
    """`points` (n, d) of the trials with a `score` (n,), their highest `rung` (n,) from 0, and `busy` (m, d) points of
    those without; `params` of the n. `barred` (n,) cannot be trained: of the first rung, and in every view."""

    points: np.ndarray
    score: np.ndarray
    rung: np.ndarray
    busy: np.ndarray
    params: Sequence[Params]
    barred: np.ndarray

    def at_rung(self, rung: int) -> Evidence:
        """Only of the trials that reached `rung`, and of those that are barred."""
        kept = np.flatnonzero((self.rung >= rung) | self.barred)
        params = [self.params[int(place)] for place in kept]
        return Evidence(self.points[kept], self.score[kept], self.rung[kept], self.busy, params, self.barred[kept])


def gather(space: Space, seen: Sequence[Observation], maximise: bool, weights: np.ndarray | None = None) -> Evidence:
    """The evidence of all trials so far. `weights`: of the metric and of each of their costs, where there are any."""
    valued = [observation for observation in seen if observation.values or observation.barred]
    waiting = [observation.params for observation in seen if not observation.values and not observation.failed]
    params = [observation.params for observation in valued]
    values = [[None] if observation.barred else observation.values for observation in valued]
    rung, barred = np.array([len(v) - 1 for v in values], int), np.array([o.barred for o in valued], bool)
    score = _scores(values, rung, maximise)
    if weights is not None:
        score = _weighed(score, [() if o.barred else o.costs for o in valued], weights)
    return Evidence(encode(space, params), score, rung, encode(space, waiting), params, barred)


def _weighed(score: np.ndarray, costs: Sequence[tuple[float, ...]], weights: np.ndarray) -> np.ndarray:
    """Scores of another kind: of the metric's, turned back to ranks, and the ranks of the costs, weighed together."""
    n = len(score)
    known = np.array([own or (math.inf,) * (len(weights) - 1) for own in costs]).reshape(n, len(weights) - 1)
    ranks = [np.exp(-score), *(_ranks(column) / (n + 1) for column in known.T)]
    return -np.log(_ranks(weigh(np.stack(ranks, 1), weights)) / (n + 1))


def _scores(known: Sequence[Sequence[float | None]], rung: np.ndarray, maximise: bool) -> np.ndarray:
    score = np.zeros(len(known))
    for at in range(int(rung.max(initial=-1)) + 1):
        members = np.flatnonzero(rung >= at)
        values = np.array([_cost(known[int(place)][at], maximise) for place in members])
        ranks = _ranks(values)
        if at == 0:
            score[members] = -np.log(ranks / (len(ranks) + 1))
        else:
            score[members] = np.interp(ranks, np.arange(1, len(ranks) + 1), -np.sort(-score[members]))
    return score


def _cost(value: float | None, maximise: bool) -> float:
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if maximise else value


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 for the smallest; equals share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    group = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
    counts = np.bincount(group)
    ranks = np.empty(len(values))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def encode(space: Space, params: Sequence[Params]) -> np.ndarray:
    """Configurations as points (n, d) of the unit cube; what a configuration does not have is 0.5."""
    columns = [_column(space, dimension, params) for dimension in space.dimensions]
    return np.stack(columns, 1) if columns else np.zeros((len(params), 0))


def has(space: Space, dimension: Dimension, params: Params) -> bool:
    """Whether `params` has its value of the key from this `dimension`."""
    return not dimension.when or (dimension.key in params and dimension.active({**space.constants, **params}))


def _column(space: Space, dimension: Dimension, params: Sequence[Params]) -> np.ndarray:
    domain = dimension.domain
    values = [p[dimension.key] if has(space, dimension, p) else None for p in params]
    if isinstance(domain, Choice):
        return np.array([0.5 if v is None else (domain.options.index(v) + 0.5) / len(domain.options) for v in values])
    column = np.array([math.nan if value is None else value for value in values], float)
    low, high = ends(dimension)
    unit = (np.log(column) if domain.log else column) - low
    return np.clip(np.nan_to_num(unit / ((high - low) or 1.0), nan=0.5), 0.0, 1.0)


def ends(dimension: Dimension) -> tuple[float, float]:
    """The ends of a range, on the scale on which it is searched."""
    domain = dimension.domain
    assert not isinstance(domain, Choice)
    return (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)


def decode(dimension: Dimension, unit: float) -> object:
    """The value of `dimension` at `unit` of 0 to 1."""
    domain = dimension.domain
    if isinstance(domain, Choice):
        return domain.options[min(int(unit * len(domain.options)), len(domain.options) - 1)]
    low, high = ends(dimension)
    value = low + unit * (high - low)
    return domain.clip(math.exp(value) if domain.log else value)


def features(space: Space, points: np.ndarray) -> np.ndarray:
    """Points as the process measures their distance: options without an order stand equally far apart."""
    columns = []
    for place, dimension in enumerate(space.dimensions):
        domain, column = dimension.domain, points[:, place]
        if isinstance(domain, Choice) and not _ordered(domain):
            option = np.minimum((column * len(domain.options)).astype(int), len(domain.options) - 1)
            columns += [(option == k) * math.sqrt(0.5) for k in range(len(domain.options))]
        elif isinstance(domain, Choice):
            columns.append((np.minimum(np.floor(column * len(domain.options)), len(domain.options) - 1) + 0.5)
                           / len(domain.options))  # fmt: skip
        else:
            columns.append(column)
    return np.stack(columns, 1) if columns else np.zeros((len(points), 0))


def _ordered(domain: Choice) -> bool:
    """Whether the options are numbers in their order, or only two."""
    options = domain.options
    if len(options) <= 2:
        return True
    numbers = all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in options)
    return numbers and list(options) == sorted(options)
