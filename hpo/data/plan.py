"""How samples become shards: which go into which file. A function of the listing and the options alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.data.convert import Chunk
from hpo.data.images import QUALITY, ImagePolicy
from hpo.data.listing import Listing, Source
from hpo.data.manifest import SPLITS
from hpo.data.split import Shares
from hpo.errors import UsageError

MIB = 1024 * 1024
_CHUNK_IMAGES, _CHUNK_BYTES = 64, 8 * MIB
_BYTES_A_PIXEL = 0.5  # of a photograph at JPEG quality 95: for planning only


@dataclass(frozen=True)
class Recipe:
    """What prepare.py was asked to make. `size`, `max_side`: see ImagePolicy; `shard_mib`: about so large a shard."""

    encoding: str = "jpeg"
    size: int | None = None
    max_side: int | None = 1024
    shard_mib: int = 256
    seed: int = 0
    shares: Shares = Shares()

    def __post_init__(self) -> None:
        if self.encoding == "raw" and self.size is None:
            raise UsageError("--encoding raw stores images of one size; add --size N, for example --size 64.")

    @property
    def policy(self) -> ImagePolicy:
        return ImagePolicy(self.encoding, self.size, self.max_side)

    def options(self) -> dict[str, Any]:
        """By the names that a person gave them; written to the manifest and compared at a second run."""
        return {
            "--encoding": self.encoding,
            "--size": self.size,
            "--max-side": self.max_side,
            "--shard-size": self.shard_mib,
            "--seed": self.seed,
            "--validation": self.shares.validation,
            "--test": self.shares.test,
        }

    def transformation(self) -> dict[str, Any]:
        """The part that a shard says about its images."""
        return {
            "size": self.size,
            "max_side": self.max_side,
            "quality": QUALITY,
            "crop": "centre" if self.size else None,
        }


@dataclass(frozen=True)
class PlannedShard:
    """Shard `index` of `count` of a split, and the positions in the listing that go into it, uint64 (n,)."""

    split: str
    index: int
    count: int
    ids: np.ndarray

    @property
    def stem(self) -> str:
        return f"{self.split}-{self.index:05d}-of-{self.count:05d}"


def plan_shards(listing: Listing, codes: np.ndarray, recipe: Recipe) -> list[PlannedShard]:
    """Cuts each split, in listing order, into shards of about equal bytes and at most about `recipe.shard_mib`.

    Args:
        codes: the split of each image, as an index into SPLITS.
    """
    sizes = expected_bytes(listing, recipe)
    planned = []
    for code, split in enumerate(SPLITS):
        ids = np.flatnonzero(codes == code).astype(np.uint64)
        if not len(ids):
            continue
        before = np.cumsum(sizes[ids]) - sizes[ids]
        total = int(sizes[ids].sum())
        wanted = max(1, -(-total // (recipe.shard_mib * MIB)))
        number = np.unique(before * wanted // max(total, 1), return_inverse=True)[1]  # a huge image may leave a gap
        parts = np.split(ids, np.flatnonzero(np.diff(number)) + 1)
        planned += [PlannedShard(split, index, len(parts), part) for index, part in enumerate(parts)]
    return planned


def expected_bytes(listing: Listing, recipe: Recipe) -> np.ndarray:
    """About how many bytes each image takes in a shard, int64 (N,)."""
    if recipe.size is not None:
        area = recipe.size**2 * (3 if recipe.encoding == "raw" else _BYTES_A_PIXEL * 4 / 3)
        images = len(listing.table.images) if listing.table else 1
        return np.full(len(listing), max(1, int(area)) * images, np.int64)
    if recipe.max_side is not None:
        return np.minimum(listing.sizes, int(recipe.max_side**2 * _BYTES_A_PIXEL))
    return listing.sizes


def chunks(shard: PlannedShard, source: Source, recipe: Recipe) -> Iterator[Chunk]:
    """The shard's samples in pieces for one task each."""
    sizes = source.listing.sizes
    table = source.listing.table
    columns = [source.listing.references, *(table.further if table else ())]
    first = taken = 0
    numbers = shard.ids.tolist()
    for position, number in enumerate(numbers, 1):
        taken += int(sizes[number])
        if position - first == _CHUNK_IMAGES or taken >= _CHUNK_BYTES or position == len(numbers):
            references = [[column[i] for i in numbers[first:position]] for column in columns]
            yield Chunk(source.loader, recipe.policy, shard.ids[first:position], references)
            first, taken = position, 0
