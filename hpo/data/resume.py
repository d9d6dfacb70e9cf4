"""An output directory while prepare.py fills it: whose it is, what a killed run left, when it is complete.

DIR/.prepare/lock        held by the one process that writes
DIR/.prepare/plan.json   the source and options it was begun with
DIR/.prepare/STEM.json   what is to be known of a finished shard; written before the shard gets its name
DIR/.STEM.h5.tmp         a shard being written
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpo.data.manifest import MANIFEST, SKIPPED, WORK, Manifest, ShardRecord, read_manifest, write_manifest
from hpo.data.plan import PlannedShard
from hpo.errors import DataError, UsageError
from hpo.layout import read_json, sync_folder, write_json, write_text

_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is in place. `skipped`: (position in the listing, reason) of each image it had to leave out."""

    record: ShardRecord
    digests: bytes
    skipped: list[tuple[int, str]]


@dataclass(frozen=True)
class Workplace:
    """The directory `out`, held by this process."""

    out: Path

    @property
    def _work(self) -> Path:
        return self.out / WORK

    def temporary(self, shard: PlannedShard) -> Path:
        return self.out / f".{shard.stem}.h5.tmp"

    def final(self, shard: PlannedShard) -> Path:
        return self.out / f"{shard.stem}.h5"

    def publish(self, shard: PlannedShard, finished: FinishedShard) -> None:
        """Gives a written, synced shard its name, after noting what is to be known of it."""
        note = {"record": asdict(finished.record), "digests": finished.digests.hex(), "skipped": finished.skipped}
        write_json(self._work / f"{shard.stem}.json", note)
        self.temporary(shard).replace(self.final(shard))
        sync_folder(self.out)

    def left(self, shard: PlannedShard) -> FinishedShard | None:
        """What an earlier run noted of this shard, if the file is there; its content is yet to be checked."""
        try:
            note = json.loads((self._work / f"{shard.stem}.json").read_text(encoding="utf-8"))
            status = self.final(shard).stat()
            record = replace(ShardRecord(**note["record"]), mtime_ns=status.st_mtime_ns)
            skipped = [(int(number), str(reason)) for number, reason in note["skipped"]]
            finished = FinishedShard(record, bytes.fromhex(note["digests"]), skipped)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return finished if status.st_size == record.size else None

    def complete(self, manifest: Manifest, skipped: str | None) -> None:
        """Writes the list of skipped images and, last of all, the manifest."""
        if skipped is not None:
            write_text(self.out / SKIPPED, skipped)
        write_manifest(self.out, manifest)
        shutil.rmtree(self._work)


@contextmanager
def claim(out: Path, identity: dict[str, Any]) -> Iterator[Workplace | None]:
    """Holds `out` for writing what `identity` describes; None when that is already there, complete.

    Raises:
        UsageError: `out` holds something else, data of another source or options, or another process writes there.
    """
    if _is_complete(out, identity):
        yield None
        return
    _require_ours(out)
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle, out)
        if _is_complete(out, identity):  # by the process that held the lock just now
            shutil.rmtree(work)
            yield None
            return
        if (work / "plan.json").exists():
            _require_same(out, read_json(work / "plan.json"), identity)
        else:
            write_json(work / "plan.json", identity)
        for torn in out.glob(".*.tmp"):
            torn.unlink()
        yield Workplace(out)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    checksum = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum.update(block)
    return checksum.hexdigest()


def _is_complete(out: Path, identity: dict[str, Any]) -> bool:
    if not (out / MANIFEST).exists():
        return False
    manifest = read_manifest(out)
    _require_same(out, manifest.source, identity)
    for shard in manifest.shards:
        path = out / shard.path
        if not path.is_file() or path.stat().st_size != shard.size:
            raise DataError(
                f"{out} is complete but for {shard.path}, which is gone or cut short; remove {out} to make it anew."
            )
    return True


def _require_ours(out: Path) -> None:
    try:
        names = sorted(entry.name for entry in out.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(f"{out} is a file; --out names a directory.") from None
    except OSError as error:
        raise UsageError(f"{out} cannot be used: {error.strerror}.") from None
    if names and WORK not in names:
        raise UsageError(f"{out} holds something else ({names[0]!r}); give a new or empty directory to --out.")


def _require_same(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("kind") == new["kind"]:
        for option, value in new["options"].items():
            before = old.get("options", {}).get(option)
            if before != value:
                raise UsageError(
                    f"{out} was begun with {option} {before}, now it is {value}; use the same or another --out."
                )
    if old.get("kind") != new["kind"] or old.get("listing_sha256") != new["listing_sha256"]:
        raise UsageError(
            f"{out} was begun from {old.get('path')} ({old.get('images')} images); {new['path']} "
            f"({new['images']} images) differs in images, "
            "labels or splits: give another --out, or remove the directory to make it anew."
        )


def _lock(handle: int, out: Path) -> None:
    """Ends with the process, however it ends: a killed run leaves no lock to clear."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another prepare.py is writing to {out}; wait for it or give another --out.") from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # a file system without flock
            raise
