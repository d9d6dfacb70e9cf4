"""Several objectives: who is ahead at a rung, and one score for a model.

A trial is dominated by another that is at least as good in everything and better in something. At a rung, those that
fewer others dominate are ahead (the ranks of Fonseca and Fleming 1993); of equals, the better metric. With one
objective this is the order of the values. The models see, suggestion by suggestion, another weighting of the
objectives (ParEGO, Knowles 2006), so that over a sweep they look at the whole front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ADDED = 0.05  # share of the weighted sum beside the largest weighted rank


class FrontRung:
    """Who reached one rung: `points` of the objectives, less is better. Adding costs a look at each of them."""

    def __init__(self) -> None:
        self._points: np.ndarray | None = None
        self._dominators = np.zeros(0, int)

    def judge(self, point: Sequence[float]) -> tuple[int, int]:
        """Rank of `point` from 1, and how many with it; who came earlier is ahead of its equal."""
        if self._points is None:
            return 1, 1
        own, dominators = self._compare(np.array(point, float))
        ahead = (dominators < own) | ((dominators == own) & (self._points[:, 0] <= point[0]))
        return 1 + int(ahead.sum()), len(dominators) + 1

    def enter(self, point: Sequence[float]) -> None:
        new = np.array(point, float)
        if self._points is None:
            self._points, self._dominators = new[None], np.zeros(1, int)
            return
        own, dominators = self._compare(new)
        self._points, self._dominators = np.vstack([self._points, new]), np.append(dominators, own)

    def _compare(self, new: np.ndarray) -> tuple[int, np.ndarray]:
        """How many dominate `new`, and how many each of the others, with it."""
        points = self._points
        assert points is not None
        theirs = (points <= new).all(1) & (points < new).any(1)
        ours = (new <= points).all(1) & (new < points).any(1)
        return int(theirs.sum()), self._dominators + ours


def draw_weights(objectives: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (objectives,) that add up to 1, all mixtures equally likely."""
    return np.asarray(rng.dirichlet(np.ones(objectives)))


def weigh(ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One cost (n,) of `ranks` (n, objectives), each 0 for the best to 1: the augmented Chebyshev distance from 0."""
    weighted = ranks * weights
    return np.asarray(weighted.max(1) + _ADDED * weighted.sum(1))
