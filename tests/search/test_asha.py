"""ASHA's rungs and decisions, as tables."""

from __future__ import annotations

import math

import pytest

from hpo.search.asha import Rungs, place_rungs, rung_epochs


@pytest.mark.parametrize(
    ("max_epochs", "warmup", "grace", "expected"),
    [
        (20, 2.0, None, [3, 9, 20]),  # the first rung lies after the warm-up
        (6, 0.6, None, [1, 3, 6]),
        (100, 0.0, None, [5, 15, 45, 100]),  # and not below 5 %
        (100, 10.0, None, [11, 33, 99, 100]),
        (9, 0.0, 2, [2, 6, 9]),
        (1, 0.1, None, [1]),
    ],
)
def test_rungs(max_epochs, warmup, grace, expected):
    shares = place_rungs(max_epochs, 3, warmup, grace)
    assert rung_epochs(shares, max_epochs) == expected


def test_rungs_of_a_shorter_trial_are_shares_of_its_own_epochs():
    shares = place_rungs(30, 3, 2.0)
    assert rung_epochs(shares, 30) == [3, 9, 27, 30]
    assert rung_epochs(shares, 10) == [1, 3, 9, 10]


def enter(values, maximise=True, reduction=3):
    rungs = Rungs(place_rungs(9, reduction, 0, 1), reduction, maximise)
    decisions = []
    for number, value in enumerate(values):
        decisions.append(rungs.judge(0, value, pause=False))
        rungs.enter(0, str(number), value, decisions[-1].action)
    return decisions


def test_before_many_came_the_best_so_far_goes_on():
    decisions = enter([0.1, 0.05, 0.2])
    assert [(d.action, d.rank, d.of, d.cutoff) for d in decisions] == [
        ("continue", 1, 1, None), ("stop", 2, 2, 0.1), ("continue", 1, 3, 0.1),
    ]  # fmt: skip
    assert [d.action for d in enter([0.1, 0.2, 0.3], reduction=4)] == ["continue"] * 3
    assert [d.action for d in enter([0.3, 0.2, 0.25], reduction=4)] == ["continue", "stop", "stop"]


def test_the_best_third_goes_on_and_says_why():
    decisions = enter([0.5, 0.4, 0.6, 0.55, 0.45, 0.7])
    assert [d.action for d in decisions] == ["continue", "stop", "continue", "stop", "stop", "continue"]
    assert (decisions[3].rank, decisions[3].of, decisions[3].cutoff) == (2, 4, 0.6)


def test_ties_stop():
    assert [d.action for d in enter([0.1, 0.1, 0.1, 0.1])] == ["continue", "stop", "stop", "stop"]


def test_minimised_metrics_are_turned_round():
    assert [d.action for d in enter([0.5, 0.6, 0.4, 0.7], maximise=False)] == ["continue", "stop", "continue", "stop"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_at_once_and_counts_as_worst(value):
    decisions = enter([value, 0.1, 0.2, 0.15])
    assert decisions[0].action == "stop"
    assert decisions[2].action == "continue"
    assert decisions[3].action == "stop"


class Pausing:
    """Rungs at 1, 3 and 9 of 9 epochs, in promotion."""

    def __init__(self):
        self.rungs, self.count = Rungs(place_rungs(9, 3, 0, 1), 3, maximise=True), 0

    def arrive(self, value, rung=0, trial=None):
        trial, self.count = trial or f"t{self.count}", self.count + 1
        decision = self.rungs.judge(rung, value, pause=rung < 2)
        self.rungs.enter(rung, trial, value, decision.action)
        return decision.action

    def promote(self, last=False):
        found = self.rungs.next_promotion(last)
        if found is None:
            return None
        self.rungs.release(found[0])
        return found[0], found[1].rank, found[1].of, found[1].cutoff


def test_in_promotion_nobody_passes_unjudged_and_the_best_third_goes_on():
    asha = Pausing()
    assert [asha.arrive(value) for value in (0.5, 0.7, 0.6)] == ["pause", "pause", "pause"]
    assert asha.promote() == ("t1", 1, 3, 0.6)
    assert asha.promote() is None
    assert [asha.arrive(value) for value in (0.8, 0.1)] == ["continue", "pause"]
    assert asha.promote() is None  # t3 and t1 are the best two of five, and one would do
    assert asha.arrive(0.2) == "pause"
    assert asha.promote() is None
    assert [asha.arrive(value) for value in (0.1, 0.1, 0.1)] == ["pause"] * 3
    assert asha.promote() == ("t2", 3, 9, 0.5)


def test_with_many_workers_at_the_start_a_third_goes_on_however_they_come():
    asha = Pausing()
    passed = [asha.arrive(0.1 + i / 1000) for i in range(64)].count("continue")  # each better than all before
    while asha.promote():
        passed += 1
    assert passed == 62  # in this order, nearly all look like the best: no asynchronous rule can know
    asha = Pausing()
    values = [((i * 37) % 64) / 64 for i in range(64)]
    passed = [asha.arrive(value) for value in values].count("continue")
    while asha.promote():
        passed += 1
    assert 21 <= passed <= 32


def test_promotion_takes_the_highest_rung_first_and_ties_by_arrival():
    asha = Pausing()
    for trial in ("a", "b", "c"):
        asha.arrive(0.5, trial=trial)
    assert asha.promote() == ("a", 1, 3, 0.5)
    for trial in ("x", "y", "z"):
        asha.arrive(0.4, trial=trial)
    for trial in ("x", "y", "z"):
        asha.arrive(0.9, rung=1, trial=trial)
    assert asha.promote() == ("x", 1, 3, 0.9)
    assert asha.promote() == ("b", 2, 6, 0.5)


def test_when_nobody_will_come_any_more_the_best_goes_the_whole_way():
    asha = Pausing()
    asha.arrive(0.5, trial="a")
    asha.arrive(0.6, trial="b")
    assert asha.promote() is None
    assert asha.promote(last=True)[0] == "b"
    asha.arrive(0.7, rung=1, trial="b")
    assert asha.promote(last=True)[0] == "b"
    asha.arrive(0.8, rung=2, trial="b")
    assert asha.promote(last=True) is None


def test_what_diverged_is_never_promoted():
    asha = Pausing()
    assert [asha.arrive(value) for value in (None, None, None, None, 0.1)] == ["stop"] * 4 + ["continue"]
    assert asha.promote(last=True) is None
