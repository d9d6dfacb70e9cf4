"""The order of an epoch: each sample once, from seed and epoch alone, wherever it begins and whoever shares it."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.trial.order import WINDOW, EpochPlan

COUNT = 5000
BLOCKS = np.unique(np.append(0, np.random.default_rng(0).integers(0, COUNT, 300)))
PLANS = {"full": EpochPlan(COUNT, 32), "blocks": EpochPlan(COUNT, 32, BLOCKS)}


@pytest.fixture(params=PLANS)
def plan(request):
    return PLANS[request.param]


def test_each_sample_once_and_another_order_each_time(plan):
    order = plan.order(0, 1)
    assert len(order) == len(plan) * 32 == 4992
    assert len(set(order.tolist())) == 4992
    assert np.array_equal(order, plan.order(0, 1))
    for other in (plan.order(0, 2), plan.order(1, 1)):
        assert np.mean(order == other) < 0.01
    left_out = [set(range(COUNT)) - set(plan.order(0, epoch).tolist()) for epoch in range(40)]
    assert len(set.union(*left_out)) > 100


def test_any_batch_can_be_the_first_and_ranks_share_it(plan):
    whole = list(plan.batches(3, 2))
    assert len(whole) == len(plan)
    for first in (1, 77, len(plan) - 1):
        assert np.array_equal(np.concatenate(list(plan.batches(3, 2, first))), np.concatenate(whole[first:]))
    for world in (2, 3, 4):
        ranks = [list(plan.batches(3, 2, 0, rank, world)) for rank in range(world)]
        for batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
            assert sorted(np.concatenate(parts)) == sorted(batch)


def test_windows_hold_every_block_once_and_the_order_follows_them():
    plan = PLANS["blocks"]
    windows = plan.windows(0, 1)
    assert [len(window) for window in windows[:-1]] == [WINDOW] * (len(BLOCKS) // WINDOW)
    assert sorted(np.concatenate(windows)) == list(range(len(BLOCKS)))
    block_of = np.searchsorted(BLOCKS, plan.order(0, 1), side="right") - 1
    window_of = {block: number for number, window in enumerate(windows) for block in window.tolist()}
    numbers = [window_of[block] for block in block_of.tolist()]
    assert numbers == sorted(numbers)


def test_samples_of_a_block_are_scattered_over_its_window():
    plan = EpochPlan(64 * 50, 32, np.arange(0, 64 * 50, 50))
    order = plan.order(0, 1)
    neighbours = np.abs(np.diff(order)) == 1
    assert neighbours.mean() < 0.01
    places = np.sort(np.flatnonzero(order // 50 == 7))
    assert places[0] < 400
    assert places[-1] > 64 * 50 - 400


def test_fewer_samples_than_a_batch_are_one_batch():
    (batch,) = EpochPlan(10, 32).batches(0, 1)
    assert sorted(batch) == list(range(10))
