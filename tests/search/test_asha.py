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
    return [rungs.enter(0, value) for value in values]


def test_nothing_is_decided_before_reduction_many_came():
    assert [d.action for d in enter([0.1, 0.05])] == ["continue", "continue"]


def test_the_best_third_goes_on_and_says_why():
    decisions = enter([0.5, 0.4, 0.6, 0.55, 0.45, 0.7])
    assert [d.action for d in decisions] == ["continue", "continue", "continue", "stop", "stop", "continue"]
    assert (decisions[3].rank, decisions[3].of, decisions[3].cutoff) == (2, 4, 0.6)


def test_ties_stop():
    assert [d.action for d in enter([0.1, 0.1, 0.1, 0.1])] == ["continue", "continue", "stop", "stop"]


def test_minimised_metrics_are_turned_round():
    assert [d.action for d in enter([0.5, 0.6, 0.4, 0.7], maximise=False)] == [
        "continue",
        "continue",
        "continue",
        "stop",
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_at_once_and_counts_as_worst(value):
    decisions = enter([value, 0.1, 0.2, 0.15])
    assert decisions[0].action == "stop"
    assert decisions[2].action == "continue"
    assert decisions[3].action == "stop"
