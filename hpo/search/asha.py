"""ASHA, the asynchronous successive halving of Li et al. (arXiv 1810.05934), in its stopping form.

A rung is a share of a trial's own epochs, so that trials of different length meet like with like. At each rung a
trial must be among the best 1/reduction of all that reached it. Different from Ray's AsyncHyperBandScheduler, for
reasons measured on real learning curves: the first rung lies after the warm-up; ties stop; a metric that is missing
or not finite stops at once; nothing is decided before `reduction` trials reached the rung; the last rung decides too;
a rung's value is the best up to its epoch, which is what the trial would be chosen by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Decision:
    """What ASHA said of one trial at one rung, and why. `rank` of `of` is 1 for the best; `cutoff` is the value that
    a trial had to beat, None while too few had come."""

    action: str  # continue or stop
    rank: int
    of: int
    cutoff: float | None


def place_rungs(max_epochs: int, reduction: int, warmup_epochs: float, grace: int | None = None) -> list[Fraction]:
    """Rungs as shares of a training: the first after the warm-up and at no less than 5 %, then each `reduction` times
    further, and the end.

    >>> [int(share * 20) for share in place_rungs(20, 3, warmup_epochs=2)]
    [3, 9, 20]
    """
    first = grace or max(1, math.ceil(0.05 * max_epochs), math.floor(warmup_epochs) + 1)
    epochs: list[int] = []
    while first < max_epochs:
        epochs.append(first)
        first *= reduction
    return [Fraction(epoch, max_epochs) for epoch in [*epochs, max_epochs]]


def rung_epochs(shares: Sequence[Fraction], max_epochs: int) -> list[int]:
    """The epoch of each rung for a trial of `max_epochs`."""
    return [math.ceil(share * max_epochs) for share in shares]


@dataclass
class Rungs:
    """The values that reached each rung, in their order of arrival. Filled by replaying the journal."""

    shares: Sequence[Fraction]
    reduction: int
    maximise: bool
    values: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [[] for _ in self.shares]

    def enter(self, rung: int, value: float | None) -> Decision:
        """Records `value` at `rung` and decides. None (missing, NaN, infinite) counts as worst of all."""
        others = self.values[rung]
        worst = -math.inf if self.maximise else math.inf
        mine = worst if value is None or not math.isfinite(value) else value
        rank = 1 + sum(not self._better(mine, other) for other in others)
        of = len(others) + 1
        keep = of // self.reduction
        cutoff = sorted(others, reverse=self.maximise)[keep - 1] if 0 < keep <= len(others) else None
        others.append(mine)
        stop = mine == worst or (of >= self.reduction and rank > keep)
        return Decision("stop" if stop else "continue", rank, of, cutoff if cutoff not in (None, worst) else None)

    def _better(self, a: float, b: float) -> bool:
        return a > b if self.maximise else a < b
