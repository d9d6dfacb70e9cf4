"""The way into prepared data. `describe` costs a JSON file; numpy and h5py are loaded by `open_split` only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.data.manifest import DataSummary, describe, read_manifest

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

__all__ = ["DataSummary", "describe", "open_split"]


def open_split(directory: str | Path, split: str) -> ShardSet:
    """The samples of one split ('train', 'validation' or 'test') of the data in `directory`.

    Raises:
        DataError: no such directory or split, a newer format, a damaged manifest or shard; a linked file that changed.
    """
    manifest = read_manifest(directory)
    if manifest.link:
        from hpo.data.linked import LinkedSet

        return LinkedSet(Path(directory), manifest, split)
    from hpo.data.shards import ShardSet

    return ShardSet(Path(directory), split)
