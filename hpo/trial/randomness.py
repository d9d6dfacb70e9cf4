"""Random numbers as pure functions of what they are for, so that no state of a generator has to be saved.

Order, augmentation and dropout of an epoch follow from (seed, epoch) alone, augmentation of an image from its id too.
That is why a resumed trial goes on exactly, and why the number of threads and the micro-batch do not matter.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(*parts: int) -> int:
    """A 63-bit seed that depends on all `parts` and their order."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix(state ^ np.uint64(part % 2**64))
    return int(state[0] >> np.uint64(1))


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` samples in `epoch`, int64."""
    return np.random.Generator(np.random.Philox(key=derive(seed, epoch, 1))).permutation(count)


def uniforms(seed: int, epoch: int, sample_ids: np.ndarray, columns: int) -> np.ndarray:
    """Independent numbers in [0, 1) for each sample, float64 (samples, columns)."""
    key = np.uint64(derive(seed, epoch, 2))
    rows = _mix(sample_ids.astype(np.uint64) ^ key)
    cells = _mix(rows[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN)
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _MIX_1
        values = (values ^ (values >> np.uint64(27))) * _MIX_2
        return values ^ (values >> np.uint64(31))
