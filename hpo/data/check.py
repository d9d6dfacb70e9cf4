"""Is every byte of a data directory as it was written? Names shard and sample of what is not."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from hpo.data.checksum import crc32
from hpo.data.format import locate_datasets
from hpo.data.listener import Progress, be_quiet
from hpo.data.manifest import Manifest, ShardRecord, read_manifest
from hpo.data.pool import Crew
from hpo.data.resume import file_sha256
from hpo.data.tables import ShardTables, read_cells, read_tables
from hpo.errors import DataError


@dataclass(frozen=True)
class Damage:
    """`sample` is the number within the shard, None when it is not one sample that is damaged."""

    shard: str
    sample: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}{'' if self.sample is None else f' sample {self.sample}'}: {self.reason}"


def check(directory: Path, workers: int, progress: Progress = be_quiet) -> list[Damage]:
    """Reads everything: the sha256 of each file, offsets, labels, the crc32 of each sample; of a linked file, which has
    no checksums, every image. Empty when all is sound.

    Raises:
        DataError: there is no readable manifest to check against.
    """
    manifest = read_manifest(directory)
    if manifest.link:
        return _check_link(directory, manifest, progress)
    found: list[Damage] = []
    total, done = sum(manifest.splits.values()), 0
    with Crew(max(1, min(workers, len(manifest.shards)))) as crew:
        look = functools.partial(_check_shard, directory, manifest)
        for record, damages in zip(manifest.shards, crew.in_order(look, range(len(manifest.shards))), strict=True):
            found += damages
            done += record.num_samples
            progress(done, total, "images", f"{len(found)} damages" if found else "")
    return found


def _check_link(directory: Path, manifest: Manifest, progress: Progress) -> list[Damage]:
    from hpo.data.linked import LinkedSet

    found: list[Damage] = []
    total, done = sum(manifest.splits.values()), 0
    for split, count in manifest.splits.items():
        images = LinkedSet(directory, manifest, split) if count else None
        for number in range(count):
            assert images
            try:
                images.pixels(number)
            except DataError as error:
                found.append(Damage(images.link.path, int(images.sample_ids[number]), str(error)))
            done += 1
            progress(done, total, "images", f"{len(found)} damages" if found else "")
    return found


def _check_shard(directory: Path, manifest: Manifest, number: int) -> list[Damage]:
    record = manifest.shards[number]
    path = directory / record.path
    try:
        size, checksum = path.stat().st_size, file_sha256(path)
    except OSError as error:
        return [Damage(record.path, None, f"cannot be read: {error.strerror}")]
    if size == record.size and checksum == record.sha256:
        changed = []
    elif size != record.size:
        changed = [Damage(record.path, None, f"has {size} bytes, was written with {record.size}")]
    else:
        changed = [Damage(record.path, None, "its sha256 is not the one in the manifest")]
    return changed + _check_samples(path, record, manifest, size)


def _check_samples(path: Path, record: ShardRecord, manifest: Manifest, size: int) -> list[Damage]:
    if not record.num_samples:
        return []
    found: list[Damage] = []
    offsets = record.data_offset
    try:
        offsets = locate_datasets(path, record)
    except DataError as error:
        found.append(Damage(record.path, None, str(error)))
        if size != record.size:  # the manifest's offsets are for a file of the manifest's size
            return found
    try:
        if manifest.columns:
            read_cells(path, record, manifest, offsets)
        for column in range(len(manifest.columns["images"]) if manifest.columns else 1):
            found += _compare_crc32(read_tables(path, record, manifest, offsets, column))
        return found
    except DataError as error:
        return [*found, Damage(record.path, None, str(error))]


def _compare_crc32(tables: ShardTables) -> list[Damage]:
    found = []
    handle = os.open(tables.path, os.O_RDONLY)
    try:
        places = zip(tables.begin.tolist(), tables.size.tolist(), tables.crc32.tolist(), strict=True)
        for sample, (begin, size, expected) in enumerate(places):
            if crc32(os.pread(handle, size, begin)) != expected:
                identity = int(tables.sample_ids[sample])
                found.append(Damage(tables.path.name, sample, f"crc32 differs (sample_id {identity})"))
    finally:
        os.close(handle)
    return found
