"""The tree-structured Parzen estimator (Bergstra et al. 2011), one dimension at a time, over linked scores.

A few of the best trials make one density, all others another; a value is drawn where the first is largest beside the
second. It stays close to what has proved good, one dimension independent of the others: crude, and hard to mislead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hpo.search.evidence import Evidence, decode, has
from hpo.search.gaussian import normal_cdf
from hpo.space import Choice, Dimension, Params, Space

_GOOD = 0.25  # times the square root of the number of trials
_DRAWS = 24
_RECENT = 1000  # of the others, for speed

_Draw = Callable[[np.random.Generator], np.ndarray]
_Log = Callable[[np.ndarray], np.ndarray]


class Parzen:
    def __init__(self, space: Space, evidence: Evidence) -> None:
        count = max(2, math.ceil(_GOOD * math.sqrt(len(evidence.score))))
        order = np.argsort(-evidence.score, kind="stable")
        good, rest = order[:count], np.sort(order[count:])[-_RECENT:]
        self._space = space
        self._good, self._rest = evidence.points[good], evidence.points[rest]
        self._good_params = [evidence.params[place] for place in good]
        self._rest_params = [evidence.params[place] for place in rest]

    def draw(self, rng: np.random.Generator) -> Params:
        """A configuration; conditional keys are drawn where they are active, from trials that had them."""
        places = {dimension.name: place for place, dimension in enumerate(self._space.dimensions)}
        return self._space.build(lambda dimension: self._pick(dimension, places[dimension.name], rng))

    def _pick(self, dimension: Dimension, place: int, rng: np.random.Generator) -> object:
        good = self._good[self._having(dimension, self._good_params), place]
        rest = self._rest[self._having(dimension, self._rest_params), place]
        if isinstance(dimension.domain, Choice):
            return dimension.domain.options[_pick_option(good, rest, len(dimension.domain.options), rng)]
        draw, good_log = _density(good)
        _, rest_log = _density(rest)
        values = draw(rng)
        return decode(dimension, float(values[np.argmax(good_log(values) - rest_log(values))]))

    def _having(self, dimension: Dimension, params: Sequence[Params]) -> np.ndarray:
        return np.array([place for place, p in enumerate(params) if has(self._space, dimension, p)], int)


def _pick_option(good: np.ndarray, rest: np.ndarray, options: int, rng: np.random.Generator) -> int:
    shares = [np.bincount(np.minimum((side * options).astype(int), options - 1), minlength=options) + 1.0
              for side in (good, rest)]  # fmt: skip
    shares = [share / share.sum() for share in shares]
    drawn = rng.choice(options, _DRAWS, p=shares[0])
    return int(drawn[np.argmax(shares[0][drawn] / shares[1][drawn])])


def _density(values: np.ndarray) -> tuple[_Draw, _Log]:
    """A mixture of normals, one at each value as wide as the gap to its neighbours, and one over the whole range: how
    to draw from it, and its logarithm."""
    centres = np.sort(np.append(values, 0.5))
    gaps = np.diff(np.concatenate([[0.0], centres, [1.0]]))
    widths = np.clip(np.maximum(gaps[:-1], gaps[1:]), 1 / min(100, len(centres) + 1), 1.0)
    widths[np.searchsorted(centres, 0.5)] = 1.0
    mass = widths * (normal_cdf((1 - centres) / widths) - normal_cdf(-centres / widths))

    def draw(rng: np.random.Generator) -> np.ndarray:
        which = rng.integers(0, len(centres), _DRAWS)
        raw = np.abs(centres[which] + widths[which] * rng.normal(size=_DRAWS))  # reflected at 0, and at 1
        return np.clip(1 - np.abs(1 - raw), 0.0, 1.0)

    def log(x: np.ndarray) -> np.ndarray:
        z = (x[:, None] - centres) / widths
        return np.asarray(np.log((np.exp(-0.5 * z * z) / mass).mean(1) + 1e-300))

    return draw, log
