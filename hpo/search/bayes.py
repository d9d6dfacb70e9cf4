"""The Bayesian searcher: two models and two views of the evidence take turns at random.

    model   a Gaussian process and its expected improvement: learns from few trials how the whole space lies;
            Parzen densities: stay close to what has proved good, and do not believe in a smooth space
    view    all trials, by linked scores (see hpo.search.evidence): early rungs say something of many;
            only the trials that came to the highest rung with enough of them: late rungs say more of few

Ray's own OptunaSearch tells a trial that was stopped after one epoch as if its value were final; early values then
compete with final ones and the search is worse than random. Here values of different rungs are never compared.
Each of the four alone loses on some task by much; in turn they do not (measured with bench/search).
A suggestion is a pure function of the journal's prefix and the sweep's seed: all is computed anew for each, and the
k-th suggestion has its own random seed, so nothing needs saving.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np

from hpo.search.evidence import Evidence, Observation, decode, encode, features, gather
from hpo.search.front import draw_weights
from hpo.search.gaussian import GaussianProcess
from hpo.search.parzen import Parzen
from hpo.space import Params, Space

__all__ = ["Observation", "Suggestion", "startup_trials", "suggest", "suggestion_seed"]

_RANDOM_SHARE = 10  # every tenth suggestion is random: insurance against models that are wrong
_TRIES = 50  # to find a configuration that was not tried before
_BUSY = 64  # running trials that the process is told of
_WIDE = 256  # candidates from the whole space, and as many near the best
_LEADERS = 8  # points that candidates lie near
_ROUNDS, _CLOSER = 2, 64  # then rounds of so many candidates ever closer to the best of them


@dataclass(frozen=True)
class Suggestion:
    params: Params
    origin: str  # default, user, random or model; searcher: one of Ray Tune's
    note: str = ""
    rung: int | None = None  # that the model looked at, from 1: it knew who had come there
    alone: bool = False  # it did not look at the earlier sweeps that there are


def startup_trials(space: Space, num_trials: int) -> int:
    """Observations before the model is asked: 8, or one more than dimensions, but a third of a small sweep."""
    dimensions = len(space.dimensions)
    return max(dimensions + 1, min(8, num_trials // 3))


def suggestion_seed(seed: int, number: int) -> int:
    """The random seed of suggestion `number`: no generator has to be carried from one to the next."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def suggest(
    space: Space,
    seen: Sequence[Observation],
    number: int,
    *,
    seed: int,
    maximise: bool,
    startup: int,
    points: Sequence[Params] = (),
    model: bool = True,
    objectives: int = 1,
) -> Suggestion:
    """Suggestion `number` (from 0) given all earlier ones in their order: the default, then the person's points, then
    random ones until `startup` trials have a value, then the models'. With several `objectives` each looks at another
    weighting of them."""
    if number == 0:
        return Suggestion(space.default(), "default")
    if number <= len(points):
        return Suggestion(points[number - 1], "user")
    rng = random.Random(suggestion_seed(seed, number))
    valued = (1 for o in seen if o.values and o.values[-1] is not None and not o.barred)
    if (
        not model
        or sum(islice(valued, startup)) < startup
        or number % _RANDOM_SHARE == _RANDOM_SHARE - 1
        or not space.dimensions
    ):
        drawn = (space.sample(rng) for _ in repeat(None))
        endless = math.isinf(space.size)  # no draw comes twice: the cost need not grow with the sweep
        return Suggestion(next(drawn) if endless else _untried(space, seen, drawn), "random")
    dice = np.random.default_rng(suggestion_seed(seed, number))
    looked_at = _without_earlier(seen, startup, dice)
    evidence = gather(space, looked_at, maximise, draw_weights(objectives, dice) if objectives > 1 else None)
    rung = _enough(evidence) if dice.random() < 0.5 else 0
    view = evidence.at_rung(rung)
    if dice.random() < 0.5:
        parzen, name = Parzen(space, view), "Parzen densities"
        found: Iterator[Params] = (parzen.draw(dice) for _ in range(_TRIES))
    else:
        found, name = _improving(space, view, dice), "Gaussian process"
    params = _untried(space, seen, chain(found, (space.sample(rng) for _ in repeat(None))))
    note = f"{int((~view.barred).sum())} trials that reached rung {rung + 1}; {name}"
    return Suggestion(params, "model", note, rung + 1, alone=len(looked_at) < len(seen))


def _without_earlier(seen: Sequence[Observation], startup: int, dice: np.random.Generator) -> Sequence[Observation]:
    """What the model looks at: every other time, by a coin, this sweep's own trials alone, once `startup` of them have
    a value. Those of earlier sweeps help at the start, and later hold the search where the earlier one had come to."""
    own = [observation for observation in seen if not observation.earlier]
    if len(own) == len(seen) or sum(bool(o.values) and not o.barred for o in own) < startup or dice.random() < 0.5:
        return seen
    return own


def _enough(evidence: Evidence) -> int:
    """The highest rung that more trials than dimensions, and 8, have reached; the first when there is none."""
    least = max(8, evidence.points.shape[1] + 1)
    return max((r for r in range(int(evidence.rung.max()) + 1) if (evidence.rung >= r).sum() >= least), default=0)


def _improving(space: Space, view: Evidence, rng: np.random.Generator) -> Iterator[Params]:
    """Configurations by the improvement that the process expects, largest first."""
    levels = (view.rung.max() - view.rung).astype(float)
    busy = features(space, view.busy[-_BUSY:])
    process = GaussianProcess(features(space, view.points), view.score, levels, busy)
    leaders = view.points[process.order[:_LEADERS]]
    found = np.concatenate([rng.random((_WIDE, view.points.shape[1])), _near(leaders, _WIDE, rng)])
    worth = process.improvement(features(space, _settled(space, found)))
    for step in range(_ROUNDS):
        best = found[np.argsort(-worth, kind="stable")[:5]]
        steps = rng.normal(size=(_CLOSER, found.shape[1])) * (rng.random((_CLOSER, found.shape[1])) < 0.5)
        closer = np.clip(best[rng.integers(0, len(best), _CLOSER)] + steps * 0.08 * 0.4**step, 0.0, 1.0)
        found = np.concatenate([found, closer])
        worth = np.concatenate([worth, process.improvement(features(space, _settled(space, closer)))])
    yield from (_params(space, point) for point in found[np.argsort(-worth, kind="stable")[:_TRIES]])


def _near(leaders: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points near `leaders`: some dimensions moved, by steps of all sizes, reflected at the ends of the cube."""
    d = leaders.shape[1]
    moved = rng.random((count, d)) < rng.choice([0.15, 0.3, 0.6, 1.0], (count, 1))
    moved[np.arange(count), rng.integers(0, d, count)] = True
    size = 10 ** rng.uniform(-2.3, -0.4, (count, 1))
    raw = np.abs(leaders[rng.integers(0, len(leaders), count)] + moved * rng.normal(size=(count, d)) * size)
    return np.asarray(np.clip(1 - np.abs(1 - raw), 0.0, 1.0))


def _settled(space: Space, points: np.ndarray) -> np.ndarray:
    """`points` as the process knows tried ones: in a conditional space, 0.5 for what is not active."""
    return encode(space, [_params(space, point) for point in points]) if space.conditional else points


def _params(space: Space, point: np.ndarray) -> Params:
    units = dict(zip((dimension.name for dimension in space.dimensions), point, strict=True))
    return space.build(lambda dimension: decode(dimension, float(units[dimension.name])))


def _untried(space: Space, seen: Sequence[Observation], found: Iterator[Params]) -> Params:
    """The first of `found` that no trial had; after _TRIES, or when the space is used up, the next."""
    tried = [observation.params for observation in seen]
    if space.size <= len(tried):
        return next(found)
    return next((params for params in islice(found, 2 * _TRIES) if params not in tried), None) or next(found)
