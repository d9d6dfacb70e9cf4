"""ASHA, the asynchronous successive halving of Li et al. (arXiv 1810.05934): stopping, and promotion as in the paper.

A rung is a share of a trial's own epochs, so that trials of different length meet like with like. At each rung a
trial must be among the best 1/reduction of all that reached it. Who is not is stopped, or, in promotion, paused: it
goes on when enough worse ones have come after it. Different from Ray's AsyncHyperBandScheduler, for reasons measured
on real learning curves: the first rung lies after the warm-up; a tie counts as worse; a metric that is missing or not
finite stops at once; the last rung decides too; a rung's value is the best up to its epoch, which is what the trial
would be chosen by.

Nothing here is stored: the rungs are filled by replaying the journal.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from hpo.search.front import FrontRung


@dataclass(frozen=True)
class Decision:
    """What ASHA said of one trial at one rung, and why. `rank` of `of` is 1 for the best; `cutoff` is the value that
    a trial had to beat, None for the first to come, and in promotion while too few had."""

    action: str  # continue, stop or pause
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


Place = tuple[float, int]  # value, turned so that less is better, and order of arrival: ties go to who came first


@dataclass
class Rung:
    """Who reached one rung, best first, and who waits there to be promoted. Adding costs a binary search."""

    reduction: int
    places: list[Place] = field(default_factory=list)
    waiting: list[tuple[Place, str]] = field(default_factory=list)  # a heap; those who have left it are skipped
    paused: set[str] = field(default_factory=set)

    def judge(self, place: Place) -> tuple[int, int, Place | None]:
        """Rank of `place`, how many with it, and the place that has to be beaten, None while too few have come."""
        rank = bisect.bisect_left(self.places, place) + 1
        new = rank > len(self.places) or self.places[rank - 1] != place
        of = len(self.places) + new
        keep = of // self.reduction
        others = keep - 1 if rank > keep or new else keep  # the cutoff is the last that is kept, itself left out
        cutoff = self.places[others] if keep and 0 <= others < len(self.places) else None
        return rank, of, cutoff

    def best_waiting(self) -> tuple[Place, str] | None:
        while self.waiting and self.waiting[0][1] not in self.paused:
            heapq.heappop(self.waiting)
        return self.waiting[0] if self.waiting else None


class Rungs:
    """All rungs of a sweep. `judge` and `next_promotion` look; `enter` and `release` are the fold of the journal."""

    def __init__(self, shares: Sequence[Fraction], reduction: int, maximise: bool, fronts: bool = False) -> None:
        """`fronts`: trials come with costs, and are judged by who dominates whom (stopping only)."""
        self.shares, self.reduction = shares, reduction
        self._sign = -1.0 if maximise else 1.0
        self._rungs = [Rung(reduction) for _ in shares]
        self._fronts = [FrontRung() for _ in shares] if fronts else []
        self._at: dict[str, tuple[int, Place]] = {}  # trial -> the highest rung it reached, and its place there

    def judge(self, rung: int, value: float | None, pause: bool, costs: Sequence[float] = ()) -> Decision:
        """What becomes of a trial that arrives at `rung` with `value`; None, NaN and infinities are worst of all.

        With `pause` who is not among the best waits. Without, while fewer than `reduction` have come, who is the best
        so far goes on: letting all of those pass trains bad ones to the end, which a small sweep feels.
        """
        here = self._rungs[rung]
        place = self._place(rung, value)
        rank, of, cutoff = here.judge(place)
        if not pause and of < self.reduction and here.places:
            cutoff = here.places[0]
        if self._fronts:
            (rank, of), cutoff = self._fronts[rung].judge((place[0], *costs)), None
        if not math.isfinite(place[0]):
            action = "stop"
        elif rank <= of // self.reduction or (rank == 1 and not pause):
            action = "continue"
        else:
            action = "pause" if pause else "stop"
        return Decision(action, rank, of, self._value(cutoff))

    def enter(self, rung: int, trial: str, value: float | None, action: str, costs: Sequence[float] = ()) -> None:
        """`trial` has arrived at `rung`, and `action` was decided."""
        here, place = self._rungs[rung], self._place(rung, value)
        if self._fronts:
            self._fronts[rung].enter((place[0], *costs))
        bisect.insort(here.places, place)
        self._at[trial] = rung, place
        if action == "pause":
            heapq.heappush(here.waiting, (place, trial))
            here.paused.add(trial)

    def release(self, trial: str) -> None:
        """`trial` waits no longer: it was promoted, or has ended."""
        if trial in self._at:
            self._rungs[self._at[trial][0]].paused.discard(trial)

    def next_promotion(self, last: bool = False) -> tuple[str, Decision] | None:
        """The best of those who wait and are now among the best 1/reduction, from the highest such rung.

        Args:
            last: nobody will come any more; then the best goes on where no other has, so that a sweep of a few trials
                ends with a whole training.
        """
        for rung in reversed(range(len(self._rungs))):
            here = self._rungs[rung]
            best = here.best_waiting()
            if best is None:
                continue
            decision = self.review(best[1])
            if decision.action == "continue" or (last and self._empty_above(rung)):
                return best[1], Decision("continue", decision.rank, decision.of, decision.cutoff)
        return None

    def review(self, trial: str) -> Decision:
        """What ASHA says now of a trial that arrived earlier, at the highest rung it reached."""
        rung, place = self._at[trial]
        rank, of, cutoff = self._rungs[rung].judge(place)
        return Decision("continue" if rank <= of // self.reduction else "stop", rank, of, self._value(cutoff))

    def _empty_above(self, rung: int) -> bool:
        return all(not above.places for above in self._rungs[rung + 1 :])

    def _place(self, rung: int, value: float | None) -> Place:
        finite = value is not None and math.isfinite(value)
        return (self._sign * value if finite else math.inf), len(self._rungs[rung].places)  # type: ignore[operator]

    def _value(self, place: Place | None) -> float | None:
        return None if place is None or not math.isfinite(place[0]) else self._sign * place[0]
