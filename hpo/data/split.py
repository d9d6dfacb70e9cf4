"""Which images train, validate and test: stratified by class, drawn by hashing, so no library's generator matters."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from hpo.data.listing import NO_IMAGE, Listing
from hpo.data.manifest import SPLITS
from hpo.errors import UsageError

TRAIN, VALIDATION, TEST = range(3)


@dataclass(frozen=True)
class Shares:
    """Parts of the images to set aside where the source names no splits."""

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name, share in (("--validation", self.validation), ("--test", self.test)):
            if not 0 <= share < 1:
                raise UsageError(f"{name} {share} is not a share; give at least 0 and less than 1.")
        if self.validation + self.test >= 1:
            raise UsageError(f"--validation {self.validation} and --test {self.test} leave nothing to train on.")


def assign_splits(listing: Listing, shares: Shares, seed: int) -> tuple[np.ndarray, str]:
    """The split of each image as an index into SPLITS, int8 (N,), and a sentence on how it was found.

    Given splits are kept. Without any, validation and test images are drawn. If only a validation split is missing it
    is drawn from the training images, because a search needs one; a missing test split is not.
    """
    given = np.array([-1 if split is None else SPLITS.index(split) for split in listing.splits], np.int8)
    if (given == -1).any():
        codes = _draw(listing, np.arange(len(listing)), shares, seed)
        return (
            codes,
            f"splits drawn with seed {seed}: validation {shares.validation:g}, test {shares.test:g} of each class.",
        )
    if not (given == VALIDATION).any() and shares.validation:
        training = np.flatnonzero(given == TRAIN)
        given[training] = _draw(listing, training, Shares(shares.validation, 0), seed)
        return given, f"splits kept; validation drawn from train with seed {seed}: {shares.validation:g} of each class."
    return given, "splits kept as the source has them."


def _draw(listing: Listing, members: np.ndarray, shares: Shares, seed: int) -> np.ndarray:
    codes = np.full(len(members), TRAIN, np.int8)
    ranks = np.array([_rank(_identity(listing, i), seed) for i in members.tolist()], np.uint64)
    strata = listing.labels[members] if listing.task == "classification" else np.zeros(len(members), np.int64)
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        inside = inside[np.argsort(ranks[inside], kind="stable")]
        validation = _count(len(inside), shares.validation)
        test = min(_count(len(inside), shares.test), max(0, len(inside) - validation - 1))
        codes[inside[:validation]] = VALIDATION
        codes[inside[validation : validation + test]] = TEST
    return codes


def _count(total: int, share: float) -> int:
    """The share rounded half up, at least one of three or more: a class that is never validated hides its errors."""
    if share == 0 or total < 3:
        return 0
    return min(max(1, math.floor(total * share + 0.5)), total - 2)


def _identity(listing: Listing, number: int) -> object:
    """By what a row is drawn: its image, or its place in the listing where it has none."""
    reference = listing.references[number]
    return f"row {number}" if listing.table and reference == NO_IMAGE else reference


def _rank(reference: object, seed: int) -> int:
    text = f"{seed}\0{reference}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
