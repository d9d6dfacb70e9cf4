"""Linked scores and points: values of different rungs are never compared as they are."""

from __future__ import annotations

import numpy as np

from hpo.search.evidence import Observation, decode, encode, features, gather
from hpo.space import parse_space

SPACE = parse_space(
    {
        "optim.lr": {"loguniform": [1e-4, 1.0]},
        "optim.optim_type": {"choice": ["adamw", "sgd", "lamb"]},
        "optim.momentum": {"uniform": [0.5, 0.9], "when": {"optim.optim_type": "sgd"}},
    }
)


def params(lr, kind="adamw"):
    return {"optim.lr": lr, "optim.optim_type": kind, **({"optim.momentum": 0.9} if kind == "sgd" else {})}


def scores(*values, maximise=True):
    return gather(SPACE, [Observation(params(0.1), list(v)) for v in values], maximise).score


def test_at_one_rung_a_better_value_has_a_higher_score_and_equals_share_one():
    score = scores([0.1], [0.3], [0.3], [None])
    assert score[1] == score[2] > score[0] > score[3]
    assert list(scores([0.1], [0.3], maximise=False)) == sorted(scores([0.1], [0.3]), reverse=True)


def test_those_who_went_on_share_out_the_scores_they_had():
    """The second and the first go on and change places; the third keeps what it had, though its value is higher."""
    early = scores([0.7], [0.8], [0.6])
    linked = scores([0.7, 0.5], [0.8, 0.4], [0.6])
    assert linked[0] == max(early)
    assert linked[1] == sorted(early)[1]
    assert linked[2] == early[2]


def test_a_trial_that_diverged_late_is_the_worst_of_those_who_came_so_far():
    linked = scores([0.9, None], [0.8, 0.4], [0.7, 0.3], [0.1])
    assert linked[0] == min(linked[:3])


def test_failed_trials_are_left_out_and_running_ones_are_busy():
    evidence = gather(SPACE, [Observation(params(0.1), [1.0]), Observation(params(1.0), []),
                              Observation(params(1.0), [], failed=True)], True)  # fmt: skip
    assert len(evidence.score) == len(evidence.busy) == 1


def test_points_lie_in_the_unit_cube_and_come_back():
    points = encode(SPACE, [params(1e-4), params(1e-2, "sgd"), params(1.0, "lamb")])
    assert np.allclose(points[:, 0], [0.0, 0.5, 1.0])
    momentum = [d.name for d in SPACE.dimensions].index("optim.momentum")
    assert list(points[:, momentum]) == [0.5, 1.0, 0.5]
    for point, value in zip(points, (1e-4, 1e-2, 1.0), strict=True):
        assert abs(decode(SPACE.dimensions[0], point[0]) / value - 1) < 1e-6


def test_options_without_an_order_are_equally_far_apart():
    rows = features(SPACE, encode(SPACE, [params(0.1, kind) for kind in ("adamw", "lamb")]))
    same = features(SPACE, encode(SPACE, [params(0.1, "adamw"), params(0.1, "adamw")]))
    assert abs(((rows[0] - rows[1]) ** 2).sum() - 1) < 1e-9
    assert (same[0] == same[1]).all()


def test_what_cannot_be_trained_is_bad_in_every_view():
    seen = [Observation(params(0.1), [0.9, 0.5]), Observation(params(0.2), [0.8]),
            Observation(params(1.0), [], failed=True, barred=True),
            Observation(params(0.5), [0.99, 0.99], failed=True, barred=True)]  # fmt: skip
    evidence = gather(SPACE, seen, True)
    assert len(evidence.busy) == 0
    assert max(evidence.score[2:]) < min(evidence.score[:2])
    late = evidence.at_rung(1)
    assert list(late.rung) == [1, 0, 0]
    assert list(late.barred) == [False, True, True]
