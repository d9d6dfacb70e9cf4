"""Scores by AutoMM's names, computed with numpy; hpo.metrics knows their directions and what each is for.

A score takes (targets, outputs, positive): of classes, targets int64 (N,), outputs probabilities float64 (N, C), the
positive class of a binary problem; in regression targets and outputs float64 (N,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpo.errors import DataError

_SMALLEST = 1e-15  # a probability of 0 for the true class would make the log loss infinite

Score = Callable[[np.ndarray, np.ndarray, int], float]


def _confusion(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Counts (C, C), truth by row."""
    classes = outputs.shape[1]
    return np.bincount(targets * classes + outputs.argmax(1), minlength=classes**2).reshape(classes, classes)


def _accuracy(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return float((outputs.argmax(1) == targets).mean())


def _balanced_accuracy(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    """Mean recall of the classes that occur."""
    counts = _confusion(targets, outputs)
    present = counts.sum(1) > 0
    return float((np.diag(counts)[present] / counts.sum(1)[present]).mean())


def _f1_each(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """F1 of each class, 0 where it neither occurs nor is predicted."""
    counts = _confusion(targets, outputs)
    both = counts.sum(0) + counts.sum(1)
    return np.divide(2 * np.diag(counts), both, out=np.zeros(len(both)), where=both > 0)


def _present(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    counts = _confusion(targets, outputs)
    return counts.sum(0) + counts.sum(1) > 0


def _f1_macro(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return float(_f1_each(targets, outputs)[_present(targets, outputs)].mean())


def _f1(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    """Of the positive class of two; of more classes the macro average."""
    if outputs.shape[1] == 2:
        return float(_f1_each(targets, outputs)[positive])
    return _f1_macro(targets, outputs, positive)


def _f1_weighted(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    weights = np.bincount(targets, minlength=outputs.shape[1])
    return float(np.average(_f1_each(targets, outputs), weights=weights))


def _f1_micro(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return _accuracy(targets, outputs, positive)  # the same where each image has one class


def _share_of(axis: int) -> Score:
    """Precision (axis 0) or recall (axis 1) of the positive class, or the macro average of more classes."""

    def score(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
        counts = _confusion(targets, outputs)
        totals = counts.sum(axis)
        shares = np.divide(np.diag(counts), totals, out=np.zeros(len(totals)), where=totals > 0)
        return float(shares[positive] if len(shares) == 2 else shares[_present(targets, outputs)].mean())

    return score


def _mcc(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    """Matthews correlation; of more than two classes Gorodkin's (2004)."""
    counts = _confusion(targets, outputs).astype(np.float64)
    truth, guess, total = counts.sum(1), counts.sum(0), counts.sum()
    spread = np.sqrt((total**2 - guess @ guess) * (total**2 - truth @ truth))
    return float((np.trace(counts) * total - truth @ guess) / spread) if spread else 0.0


def _auc(positives: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive is ranked above a negative, ties counting half (Mann and Whitney)."""
    ranks = _ranks(scores)
    count = int(positives.sum())
    pairs = count * (len(positives) - count)
    return float((ranks[positives].sum() - count * (count + 1) / 2) / pairs)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean of them for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _roc_auc(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    """Of two classes; of more, the mean of each against the rest."""
    classes = [positive] if outputs.shape[1] == 2 else np.unique(targets).tolist()
    if len(np.unique(targets)) < 2:
        raise DataError("roc_auc needs at least two classes in the data; they have one.")
    return float(np.mean([_auc(targets == c, outputs[:, c]) for c in classes]))


def _log_loss(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    chosen = outputs[np.arange(len(targets)), targets]
    return float(-np.log(np.clip(chosen, _SMALLEST, 1)).mean())


def _rmse(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return float(np.sqrt(((outputs - targets) ** 2).mean()))


def _mse(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return float(((outputs - targets) ** 2).mean())


def _mae(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return float(np.abs(outputs - targets).mean())


def _r2(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    spread = ((targets - targets.mean()) ** 2).sum()
    return float(1 - ((outputs - targets) ** 2).sum() / spread) if spread else float("nan")


def _pearsonr(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    a, b = targets - targets.mean(), outputs - outputs.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else float("nan")


def _spearmanr(targets: np.ndarray, outputs: np.ndarray, positive: int) -> float:
    return _pearsonr(_ranks(targets), _ranks(outputs), positive)


SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "f1_weighted": _f1_weighted,
    "precision": _share_of(0),
    "recall": _share_of(1),
    "mcc": _mcc,
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "rmse": _rmse,
    "mse": _mse,
    "mae": _mae,
    "r2": _r2,
    "pearsonr": _pearsonr,
    "spearmanr": _spearmanr,
}
