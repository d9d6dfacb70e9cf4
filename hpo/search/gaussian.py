"""A Gaussian process in numpy, small enough to be fitted anew while a worker waits.

Matérn 5/2 kernel with a length scale of its own for each dimension, and noise of its own for each level of evidence.
Hyperparameters are the maximum a posteriori under priors that grow with the number of dimensions (Hvarfner et al.,
arXiv 2402.02229), found by a fixed number of Rprop steps from one start, so that the same data give the same model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_STEPS = 20
_FIT = 64  # points that the hyperparameters are fitted to: the cost grows with their cube
_KEEP = 256  # points that the process knows
_JITTER = 1e-6
_NOISE_MEAN, _NOISE_SPREAD = math.log(0.1), 1.0  # prior of log noise variance at the highest level
_GROWTH_SPREAD = 0.7  # prior of log growth of noise a level further down


@dataclass(frozen=True)
class Hyperparameters:
    """Inverse squared length scales (d,), noise variance at level 0, and its factor for each level."""

    weights: np.ndarray
    noise: float
    growth: float

    def noises(self, levels: np.ndarray) -> np.ndarray:
        return np.asarray(self.noise * self.growth**levels + _JITTER)


def matern(squared: np.ndarray) -> np.ndarray:
    root = np.sqrt(5.0 * squared)
    return np.asarray((1.0 + root + root * root / 3.0) * np.exp(-root))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) of points (n, d) and (m, d)."""
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T, 0.0)


def fit_hyperparameters(x: np.ndarray, y: np.ndarray, levels: np.ndarray) -> Hyperparameters:
    """Those most likely a posteriori given `x` (n, d) in the unit cube, `y` (n,) of mean 0 and variance 1, and how
    many `levels` (n,) below the highest each value was measured."""
    n, d = x.shape
    start = np.concatenate([np.full(d, -2 * (math.log(0.5) + 0.5 * math.log(d))), [_NOISE_MEAN, 0.0]])
    spread = np.concatenate([np.full(d, 2 * 1.2), [_NOISE_SPREAD, _GROWTH_SPREAD]])
    differences = (x.T[:, :, None] - x.T[:, None, :]) ** 2
    differences = differences.reshape(d, n * n)
    theta, step, before = start.copy(), np.full(d + 2, 0.4), np.zeros(d + 2)
    for _ in range(_STEPS):
        slope = _slope(theta, differences, y, levels) - (theta - start) / spread**2
        same = slope * before
        step = np.clip(step * np.where(same > 0, 1.3, np.where(same < 0, 0.5, 1.0)), 1e-3, 1.0)
        theta = theta + np.sign(slope) * step
        theta[d + 1] = max(theta[d + 1], 0.0)
        before = slope
    return Hyperparameters(np.exp(theta[:d]), math.exp(theta[d]), math.exp(theta[d + 1]))


def _slope(theta: np.ndarray, differences: np.ndarray, y: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Gradient of the log marginal likelihood."""
    d, n = len(differences), len(y)
    weights, noise = np.exp(theta[:d]), np.exp(theta[d] + theta[d + 1] * levels)
    root = np.sqrt(5.0 * (weights @ differences).reshape(n, n))
    decay = np.exp(-root)
    kernel = (1.0 + root + root * root / 3.0) * decay
    kernel[np.diag_indices(n)] += noise + _JITTER
    inverse = np.linalg.inv(kernel)
    alpha = inverse @ y
    outer = np.outer(alpha, alpha) - inverse
    by_distance = (outer * (1.0 + root) * decay).reshape(-1) * (-5.0 / 6.0)
    own = np.diag(outer) * noise
    return np.concatenate([0.5 * weights * (differences @ by_distance), [0.5 * own.sum(), 0.5 * (own * levels).sum()]])


class GaussianProcess:
    """The process given its data; further points without values (`busy`) narrow it where they are. `order`: places of
    the data it knows, the best mean first."""

    def __init__(self, x: np.ndarray, y: np.ndarray, levels: np.ndarray, busy: np.ndarray) -> None:
        """`x` (n, d), `y` (n,) the higher the better, `levels` (n,) below the highest; `busy` (m, d)."""
        y = (y - y.mean()) / (y.std() + 1e-9)
        few, kept = _thin(y, _FIT), _thin(y, _KEEP)
        found = fit_hyperparameters(x[few], y[few], levels[few])
        known_x, y, noise = x[kept], y[kept], found.noises(levels[kept])
        self._scale, self._n = np.sqrt(found.weights), len(kept)
        self._all = np.concatenate([known_x, busy]) * self._scale
        kernel = matern(_squared(self._all, self._all))
        kernel[np.diag_indices(len(kernel))] += np.concatenate([noise, np.full(len(busy), found.noise + _JITTER)])
        self._whiten = np.linalg.inv(np.linalg.cholesky(kernel))
        known = self._whiten[: self._n, : self._n]
        self._alpha = known.T @ (known @ y)  # `busy` comes last: its values are believed to be as predicted
        means = self.predict(known_x)[0]
        self._best, self.order = float(means.max()), kept[np.argsort(-means, kind="stable")]

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at `points` (m, d)."""
        cross = matern(_squared(points * self._scale, self._all))
        explained = ((self._whiten @ cross.T) ** 2).sum(0)
        return cross[:, : self._n] @ self._alpha, np.sqrt(np.maximum(1.0 - explained, 1e-10))

    def improvement(self, points: np.ndarray) -> np.ndarray:
        """Expected improvement over the best mean at any point that was tried."""
        mean, deviation = self.predict(points)
        z = (mean - self._best) / deviation
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return np.asarray(deviation * (density + z * normal_cdf(z)))


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Of the standard normal distribution, to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail *= np.exp(-x * x)
    return np.asarray(np.where(z > 0, 1 - tail / 2, tail / 2))


def _thin(y: np.ndarray, most: int) -> np.ndarray:
    """The places of at most `most` values: the best half, and of the others evenly in their order."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(-y, kind="stable")
    rest = np.sort(order[most // 2 :])
    spread = rest[np.linspace(0, len(rest) - 1, most - most // 2).astype(int)]
    return np.concatenate([order[: most // 2], spread])
