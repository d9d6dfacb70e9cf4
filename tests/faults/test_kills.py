"""A selection of what campaign.py does at length: sweeps killed at random moments go the way of an unbroken one."""

from __future__ import annotations

import pytest
from campaign import KINDS, attack

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


def check(out, kinds, seed):
    run, wrong = attack(out, kinds, len(kinds), seed, trials=4)
    assert wrong == []
    assert [kill["kind"] for kill in run.kills] == kinds
    assert run.resumed >= kinds.count("all") + kinds.count("supervisor")


@pytest.mark.faults
def test_a_trial_and_then_everything_is_killed(out):
    check(out, ["trial", "all"], 1)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_twice(out, kind):
    check(out, [kind, kind], 2)
