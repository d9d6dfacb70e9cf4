"""Drawn splits are stratified, whole, the same for a seed, and leave what is given alone."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.data.listing import Listing
from hpo.data.split import TEST, TRAIN, VALIDATION, Shares, assign_splits
from hpo.errors import UsageError


def listing_of(*counts: int, split: str | None = None) -> Listing:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"class {number}" for number in range(len(counts))]
    references = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    return Listing(references, "classification", labels, names, [split] * len(labels), np.ones(len(labels), np.int64))


def count(codes: np.ndarray, labels: np.ndarray, label: int) -> list[int]:
    return np.bincount(codes[labels == label], minlength=3).tolist()


def test_each_class_has_its_share() -> None:
    listing = listing_of(200, 50, 7, 2)
    codes, how = assign_splits(listing, Shares(), 0)
    assert [count(codes, listing.labels, label) for label in range(4)] == [
        [160, 20, 20],
        [40, 5, 5],
        [5, 1, 1],
        [2, 0, 0],
    ]
    assert "seed 0" in how


def test_the_seed_decides() -> None:
    listing = listing_of(100)
    first, again, other = (assign_splits(listing, Shares(), seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_images_that_join_move_few_others() -> None:
    before, after = listing_of(100), listing_of(103)
    old, new = assign_splits(before, Shares(), 0)[0], assign_splits(after, Shares(), 0)[0]
    assert (old != new[:100]).sum() <= 4


@pytest.mark.parametrize("total", range(1, 12))
def test_something_is_always_left_to_train_on(total: int) -> None:
    codes, _ = assign_splits(listing_of(total), Shares(0.6, 0.39), 0)
    assert (codes == TRAIN).any()
    assert (total < 3) or ((codes == VALIDATION).any() and (codes == TEST).any())


def test_a_missing_validation_split_is_drawn_from_train() -> None:
    listing = listing_of(100, split="train")
    codes, how = assign_splits(listing, Shares(0.2, 0.3), 0)
    assert np.bincount(codes, minlength=3).tolist() == [80, 20, 0]
    assert "from train" in how
    codes, how = assign_splits(listing, Shares(0, 0.3), 0)
    assert (codes == TRAIN).all()
    assert "kept" in how


@pytest.mark.parametrize(("validation", "test"), [(1, 0), (-0.1, 0), (0.5, 0.5), (0, 1.5)])
def test_shares_that_make_no_sense(validation: float, test: float) -> None:
    with pytest.raises(UsageError, match="--validation|--test"):
        Shares(validation, test)
