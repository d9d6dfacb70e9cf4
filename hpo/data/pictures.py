"""The images of all image columns of a split as one row of images: number `sample * columns + column`."""

from __future__ import annotations

import numpy as np

from hpo.data.shards import ShardSet


class Pictures:
    """Reads like a ShardSet, over the image columns of its rows.

    Attributes:
        present: bool (N, columns), whether a row has the image; only such a one may be read.
        sample_ids: uint64 (N * columns,), by which each image is augmented on its own.
        heights, widths, image_shape, sized: see ShardSet.
    """

    def __init__(self, shards: ShardSet) -> None:
        assert shards.columns is not None
        count = len(shards.columns.images)
        others = (ShardSet(shards.directory, shards.split, column) for column in range(1, count))
        self._columns = [shards, *others]
        self.present = np.stack([column.present for column in self._columns], axis=1)
        ids = shards.sample_ids.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
        self.sample_ids = ids.ravel()
        self.image_shape, self.sized = shards.image_shape, shards.sized
        self.heights, self.widths = (
            np.stack([getattr(column, name) for column in self._columns], axis=1).ravel()
            for name in ("heights", "widths")
        )

    def __len__(self) -> int:
        return self.present.size

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Those of the images that `rows`, integers (B,), have, row after row."""
        every = rows[:, None] * len(self._columns) + np.arange(len(self._columns))
        return every[self.present[rows]]

    def read_bytes(self, i: int) -> bytes:
        row, column = divmod(i, len(self._columns))
        return self._columns[column].read_bytes(row)

    def read_many(self, indices: np.ndarray) -> list[bytes]:
        if len(self._columns) == 1:
            return self._columns[0].read_many(indices)
        return [self.read_bytes(i) for i in indices.tolist()]

    def content(self, i: int) -> bytes | np.ndarray:
        row, column = divmod(i, len(self._columns))
        return self._columns[column].content(row)

    def pixels(self, i: int) -> np.ndarray:
        row, column = divmod(i, len(self._columns))
        return self._columns[column].pixels(row)

    def name(self, i: int) -> str:
        """'shard PATH sample N', and of several image columns which."""
        row, column = divmod(i, len(self._columns))
        return f"{self._columns[column].name(row)}" + (f" image {column + 1}" if len(self._columns) > 1 else "")

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies raw images into a batch, uint8 (B, height, width, 3)."""
        rows, columns = np.divmod(indices, len(self._columns))
        for number, column in enumerate(self._columns):
            places = np.flatnonzero(columns == number)
            if len(places) == len(indices):
                column.gather(rows, out)
            elif len(places):
                part = np.empty((len(places), *out.shape[1:]), np.uint8)
                column.gather(rows[places], part)
                out[places] = part

    def close(self) -> None:
        for column in self._columns:
            column.close()
