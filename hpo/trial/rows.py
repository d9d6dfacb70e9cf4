"""What the rows of a batch have beside pixels: which images are there, numbers, categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hpo.data.columns import TableRow
    from hpo.data.pictures import Pictures
    from hpo.data.shards import ShardSet


@dataclass(frozen=True)
class Rows:
    """present: bool (B, image columns), always on the host: which images the batch holds, row after row. numbers:
    float64 (B, n), NaN where missing. codes: int64 (B, c), see hpo.data.columns."""

    present: Tensor
    numbers: Tensor
    codes: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def part(self, first: int, last: int) -> Rows:
        return Rows(self.present[first:last], self.numbers[first:last], self.codes[first:last])

    def images_of(self, first: int, last: int) -> slice:
        """The places of the images of rows `first` to `last` among those of the batch."""
        before = int(self.present[:first].sum())
        return slice(before, before + int(self.present[first:last].sum()))

    def to(self, device: torch.device) -> Rows:
        return Rows(
            self.present,
            self.numbers.to(device, non_blocking=True),
            self.codes.to(device, non_blocking=True),
        )

    def pinned(self) -> Rows:
        return Rows(self.present, self.numbers.pin_memory(), self.codes.pin_memory())


def stack_rows(rows: Sequence[TableRow]) -> Rows:
    return Rows(
        torch.tensor([[image is not None for image in row.images] for row in rows], dtype=torch.bool),
        torch.from_numpy(np.stack([row.numbers for row in rows])),
        torch.from_numpy(np.stack([row.codes for row in rows]).astype(np.int64)),
    )


class RowTable:
    """The rows of a split by number. `with_images` False: every image counts as missing, and none is read."""

    def __init__(self, shards: ShardSet, pictures: Pictures, with_images: bool = True) -> None:
        self._pictures = pictures
        self._present = pictures.present if with_images else np.zeros_like(pictures.present)
        self._with_images = with_images
        self._numbers, self._codes = shards.numbers, shards.codes.astype(np.int64)

    def rows(self, indices: np.ndarray) -> Rows:
        return Rows(
            torch.from_numpy(self._present[indices]),
            torch.from_numpy(self._numbers[indices]),
            torch.from_numpy(self._codes[indices]),
        )

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The numbers of these rows' images in `pictures`, row after row."""
        return self._pictures.numbers(indices) if self._with_images else np.zeros(0, np.int64)
