"""From a source of images to a complete data directory: convert in parallel, write shard after shard, manifest last.

The result depends on source and recipe alone, not on the number of workers nor on how often it was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.columns import Columns, fit_columns
from hpo.data.convert import DIGEST_SIZE, Converted, convert
from hpo.data.format import LABEL_DTYPES, ShardHeader, write_shard
from hpo.data.listener import Progress, Tell, be_quiet
from hpo.data.listing import Source
from hpo.data.manifest import (
    IMAGES_ONLY,
    SKIPPED,
    SPLITS,
    WITH_TABLE,
    DataSummary,
    Manifest,
    ShardRecord,
    describe,
)
from hpo.data.plan import MIB, PlannedShard, Recipe, chunks, plan_shards
from hpo.data.pool import Crew
from hpo.data.resume import FinishedShard, Workplace, claim, file_sha256
from hpo.data.split import TRAIN, assign_splits
from hpo.errors import DataError


@dataclass(frozen=True)
class _Job:
    source: Source
    recipe: Recipe
    identity: dict[str, Any]
    strict: bool
    place: Workplace
    progress: Progress
    table: _Table | None

    def labels(self, ids: np.ndarray) -> np.ndarray:
        return self.source.listing.labels[ids].astype(LABEL_DTYPES[self.source.listing.task])

    def rows(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """All that a shard holds of these samples beside their images."""
        rows = {"labels": self.labels(ids)}
        return rows | ({"numbers": self.table.numbers[ids], "categories": self.table.codes[ids]} if self.table else {})


@dataclass(frozen=True)
class _Table:
    """The further columns of a listing, its cells as arrays."""

    columns: Columns
    numbers: np.ndarray
    codes: np.ndarray


def prepare(
    source: Source,
    out: Path,
    recipe: Recipe,
    workers: int = 1,
    *,
    threads: bool = False,
    strict: bool = False,
    tell: Tell = be_quiet,
    progress: Progress = be_quiet,
) -> DataSummary:
    """Makes the data directory `out`, or goes on with it, or finds it complete. `threads`: what workers are, see Crew.

    Raises:
        UsageError: `out` cannot be used (see resume.claim).
        DataError: nothing to train on, an unreadable image with `strict`, or the files cannot be written.
    """
    codes, how = assign_splits(source.listing, recipe.shares, recipe.seed)
    for note in (*source.notes, how):
        tell(note)
    if not (codes == TRAIN).any():
        raise DataError(f"{source.path} has no image in split 'train'.")
    identity = _identity(source, recipe)
    try:
        with claim(out, identity) as place:
            if place is None:
                tell(f"{out} is complete already.")
            else:
                table = _read_table(source, codes)
                crew = Crew(min(workers, _useful_workers(source)), threads)
                _fill(_Job(source, recipe, identity, strict, place, progress, table), codes, crew, tell)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error}); mend that and run the same command again.") from error
    return describe(out)


def _read_table(source: Source, codes: np.ndarray) -> _Table | None:
    listing, table = source.listing, source.listing.table
    if table is None:
        return None
    columns = fit_columns(table.images, table.kinds, table.cells, codes == TRAIN, source.path)
    cells = (table.cells, len(listing), source.path)
    return _Table(columns, columns.numbers(*cells), columns.codes(*cells))


def _identity(source: Source, recipe: Recipe) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "path": source.path,
        "images": len(source.listing),
        "listing_sha256": source.listing.sha256(),
        "options": {**source.options, **recipe.options()},
    }


def _useful_workers(source: Source) -> int:
    """To start one costs as much as some hundred small images or a few large ones."""
    return 1 + len(source.listing) // 256 + int(source.listing.sizes.sum()) // (8 * MIB)


def _fill(job: _Job, codes: np.ndarray, crew: Crew, tell: Tell) -> None:
    planned = plan_shards(job.source.listing, codes, job.recipe)
    with crew:
        kept = _sound(job, planned, crew)
        missing = [shard for shard in planned if shard.stem not in kept]
        if kept:
            tell(f"{len(kept)} of {len(planned)} shards are there already and sound; going on.")
        made = _write_missing(job, missing, crew)
    finished = [kept.get(shard.stem) or made[shard.stem] for shard in planned]
    manifest = _manifest(job, planned, finished)
    if not manifest.splits[SPLITS[TRAIN]]:
        first = next(reason for shard in finished for _, reason in shard.skipped)
        raise DataError(f"none of the training images of {job.source.path} can be read ({first}).")
    rows = [(shard.split, *skip) for shard, done in zip(planned, finished, strict=True) for skip in done.skipped]
    job.place.complete(manifest, _skipped_table(job.source, rows) if rows else None)
    _warn(job, manifest, rows, tell)


def _sound(job: _Job, planned: list[PlannedShard], crew: Crew) -> dict[str, FinishedShard]:
    """The shards of an earlier run whose every byte is as it was written."""
    left = [(shard.stem, found) for shard in planned if (found := job.place.left(shard))]
    checksums = crew.in_order(file_sha256, (job.place.out / found.record.path for _, found in left))
    sound = {}
    for done, ((stem, found), checksum) in enumerate(zip(left, checksums, strict=True), 1):
        if checksum == found.record.sha256:
            sound[stem] = found
        job.progress(done, len(left), "shards of an earlier run checked", "")
    return sound


def _write_missing(job: _Job, missing: list[PlannedShard], crew: Crew) -> dict[str, FinishedShard]:
    """Workers convert ahead while one thread writes the shard before; two shards at most are in memory."""
    results = crew.in_order(convert, (chunk for shard in missing for chunk in chunks(shard, job.source, job.recipe)))
    total, done, skipped = sum(len(shard.ids) for shard in missing), 0, 0
    futures: list[Future[FinishedShard]] = []
    with ThreadPoolExecutor(1) as disk:
        for shard in missing:
            parts: list[Converted] = []
            while sum(part.done for part in parts) < len(shard.ids):
                parts.append(_accept(job, next(results)))
                done, skipped = done + parts[-1].done, skipped + len(parts[-1].skipped)
                job.progress(done, total, "images", f"{skipped} unreadable" if skipped else "")
            if futures:
                futures[-1].result()
            futures.append(disk.submit(_write_one, job, shard, parts))
    return {shard.stem: future.result() for shard, future in zip(missing, futures, strict=True)}


def _accept(job: _Job, part: Converted) -> Converted:
    if job.strict and part.skipped:
        number, reason = part.skipped[0]
        name = job.source.listing.references[number]
        raise DataError(
            f"image {name} of {job.source.path} cannot be read: {reason}; mend it, or go on without --strict."
        )
    return part


def _write_one(job: _Job, shard: PlannedShard, parts: list[Converted]) -> FinishedShard:
    listing = job.source.listing
    header = ShardHeader(
        job.recipe.encoding, shard.split, shard.index, shard.count, listing.num_classes, listing.class_names,
        job.recipe.transformation(), job.table is not None,
    )  # fmt: skip
    path = job.place.temporary(shard)
    ids = np.concatenate([part.ids for part in parts])
    try:
        written = write_shard(path, header, parts, job.rows(ids))
        _sync(path)
        status = path.stat()
        record = ShardRecord(
            job.place.final(shard).name, shard.split, status.st_size, status.st_mtime_ns, file_sha256(path),
            written.payload_sha256, len(ids), written.data_offset,
        )  # fmt: skip
        finished = FinishedShard(
            record, b"".join(part.digests for part in parts), [skip for part in parts for skip in part.skipped]
        )
        job.place.publish(shard, finished)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path} cannot be written ({str(error).splitlines()[0]}); make room and run the same command again, "
            "finished shards are kept."
        ) from error
    return finished


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _manifest(job: _Job, planned: list[PlannedShard], finished: list[FinishedShard]) -> Manifest:
    listing, recipe = job.source.listing, job.recipe
    counts = dict.fromkeys(SPLITS, 0)
    for shard in finished:
        counts[shard.record.split] += shard.record.num_samples
    return Manifest(
        task=listing.task,
        class_names=listing.class_names,
        num_classes=listing.num_classes,
        splits=counts,
        encoding=recipe.encoding,
        image_size=(recipe.size, recipe.size) if recipe.encoding == "raw" and recipe.size else None,
        fingerprint=_fingerprint(job, planned, finished),
        source=job.identity,
        skipped=sum(len(shard.skipped) for shard in finished),
        duplicates_across_splits=_duplicates(finished),
        shards=tuple(shard.record for shard in finished),
        format_version=WITH_TABLE if job.table else IMAGES_ONLY,
        columns=job.table.columns.to_json() if job.table else None,
    )


def _fingerprint(job: _Job, planned: list[PlannedShard], finished: list[FinishedShard]) -> str:
    """sha256 of what the data are, then for each sample in order its split, digest, label and further cells."""
    listing = job.source.listing
    what: dict[str, Any] = {"task": listing.task, "class_names": listing.class_names, "encoding": job.recipe.encoding}
    if job.table:
        what["columns"] = job.table.columns.to_json()
    checksum = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for shard, done in zip(planned, finished, strict=True):
        left_out = np.array([number for number, _ in done.skipped], np.uint64)
        rows = job.rows(shard.ids[~np.isin(shard.ids, left_out)])
        for digest, *cells in zip(_each_digest(done.digests), *rows.values(), strict=True):
            checksum.update(shard.split.encode() + digest + b"".join(cell.tobytes() for cell in cells))
    return checksum.hexdigest()


def _duplicates(finished: list[FinishedShard]) -> int:
    """Images that occur in more than one split; of rows of a table, all images of one together."""
    seen: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    for shard in finished:
        seen[shard.record.split].update(_each_digest(shard.digests))
    train, validation, test = seen.values()
    return len((train & validation) | (train & test) | (validation & test))


def _each_digest(digests: bytes) -> Iterator[bytes]:
    return (digests[i : i + DIGEST_SIZE] for i in range(0, len(digests), DIGEST_SIZE))


def _skipped_table(source: Source, rows: list[tuple[str, int, str]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "split", "reason"])
    for split, number, reason in rows:
        table.writerow([source.listing.references[number], split, reason])
    return text.getvalue().encode("utf-8", "backslashreplace").decode()  # names that are no Unicode


def _warn(job: _Job, manifest: Manifest, rows: list[tuple[str, int, str]], tell: Tell) -> None:
    if rows:
        _, number, reason = rows[0]
        first = f"{job.source.listing.references[number]}: {reason}"
        tell(
            f"warning: {len(rows)} images cannot be read and are left out ({first}); all in {job.place.out / SKIPPED}."
        )
    if manifest.duplicates_across_splits:
        tell(
            f"warning: {manifest.duplicates_across_splits} images occur in more than one split; "
            "validation and test scores will flatter."
        )
