"""How good predictions are, with how sure one can be of it from so many images.

Shares of images (accuracy, recall) have Wilson's interval (1927), which holds for small numbers and near 0 and 1;
everything else the percentile bootstrap over images (Efron 1979), seeded. Both at 95 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpo.predictor.scores import SCORES

_Z = 1.959963984540054  # of 95 %
_RESAMPLES, _FEWEST, _WORK = 1000, 200, 20_000_000
_CLASSIFICATION = ("balanced_accuracy", "f1_macro", "log_loss")
_REGRESSION = ("rmse", "mae", "r2")

Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """One class: images of it, of those found; images called so, of those right."""

    name: str
    images: int
    recall: Estimate | None
    precision: float | None


def wilson(hits: int, total: int) -> Estimate:
    """A share with its interval. `total` is at least 1."""
    share, z2 = hits / total, _Z**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * float(np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(score: Score, targets: np.ndarray, outputs: np.ndarray) -> Estimate:
    """`score` of targets (N, ...) and outputs (N, ...), and what it is on images drawn anew, with replacement."""
    count = len(targets)
    random, drawn = np.random.default_rng(0), []
    for _ in range(int(np.clip(_WORK // count, _FEWEST, _RESAMPLES))):
        chosen = random.integers(0, count, count)
        drawn.append(score(targets[chosen], outputs[chosen]))
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (np.nan, np.nan)
    return Estimate(score(targets, outputs), float(low), float(high))


def classification_scores(targets: np.ndarray, outputs: np.ndarray) -> dict[str, Estimate]:
    """targets int64 (N,), outputs probabilities float64 (N, C)."""
    found = {"accuracy": wilson(int((outputs.argmax(1) == targets).sum()), len(targets))}
    return found | {name: bootstrap(_of_classes(name), targets, outputs) for name in _CLASSIFICATION}


def regression_scores(targets: np.ndarray, outputs: np.ndarray) -> dict[str, Estimate]:
    """targets and outputs float64 (N, K), in the labels' units; of several columns the mean of their scores."""
    return {name: bootstrap(_of_columns(name), targets, outputs) for name in _REGRESSION}


def confusion_matrix(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Counts int64 (C, C), truth by row, prediction by column."""
    classes = outputs.shape[1]
    return np.bincount(targets * classes + outputs.argmax(1), minlength=classes**2).reshape(classes, classes)


def class_scores(matrix: np.ndarray, names: list[str]) -> list[ClassScore]:
    """Of each class; None where there is no image to judge by."""
    scores = []
    for number, name in enumerate(names):
        hits, images, called = int(matrix[number, number]), int(matrix[number].sum()), int(matrix[:, number].sum())
        recall = wilson(hits, images) if images else None
        scores.append(ClassScore(name, images, recall, hits / called if called else None))
    return scores


def _of_classes(name: str) -> Score:
    score = SCORES[name]
    return lambda targets, outputs: score(targets, outputs, 1)


def _of_columns(name: str) -> Score:
    score = SCORES[name]
    return lambda targets, outputs: float(
        np.mean([score(targets[:, column], outputs[:, column], 1) for column in range(targets.shape[1])])
    )
