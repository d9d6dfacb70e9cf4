"""One copy of the data on each node, shared by all trials there, so that shared storage is read once; and whatever else
one process makes there for all.

The first process that needs it copies, the others wait for it. A copy is checked by size and sha256 and appears whole,
by a rename. Each user of a copy holds a shared flock on its lock file until its process ends; whoever can take the lock
alone may remove the copy: the attempt's supervisor at its end, or, without one, the last process that used it.

    SLURMTUNE_STAGE   auto (default): data on a network file system are copied; always; never
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.data.manifest import INDEX, MANIFEST, Link, Manifest, ShardRecord, read_manifest
from hpo.data.storage import LOCAL_DIRS_VARIABLE, free_bytes, is_shared, local_directories
from hpo.errors import DataError, UsageError

STAGE_VARIABLE = "SLURMTUNE_STAGE"
SUPERVISED_VARIABLE = "SLURMTUNE_SUPERVISED"  # set where somebody else removes the copies at the end
_CHOICES = ("auto", "always", "never")
_SPARE = 256 * 2**20  # bytes to leave free, and a twentieth of the data
_CHUNK = 8 * 2**20
_GONE = 10.0  # seconds without a copy and without anybody who makes one: a cleaner of old files took it from its users
_DEADLINE = 1800.0  # seconds to wait for another process's copy

logger = logging.getLogger(__name__)
_leases: dict[Path, int] = {}  # copy -> open lock file, for the life of the process
_warned: set[str] = set()


def local_copy(directory: Path) -> Path:
    """Where to read the data of `directory` from: this node's copy of it, or `directory` itself, with the reason.

    Raises:
        DataError: a shard is not as the manifest says. UsageError: SLURMTUNE_STAGE is none of its words.
    """
    choice = os.environ.get(STAGE_VARIABLE) or "auto"
    if choice not in _CHOICES:
        raise UsageError(f"{STAGE_VARIABLE} must be one of {', '.join(_CHOICES)}, got {choice!r}.")
    if choice == "never" or (choice == "auto" and not is_shared(directory)):
        return directory
    manifest = read_manifest(directory)
    key = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()[:16]
    copy = Filling(key, MANIFEST, manifest.num_bytes, lambda folder: _copy(directory, manifest, folder), "copied to")
    found, reasons = made_once(copy)
    if found is None:
        _warn_once(
            f"no copy of {directory} on this node ({reasons}); reading it from where it is. See {LOCAL_DIRS_VARIABLE}."
        )
        return directory
    return found


@dataclass(frozen=True)
class Filling:
    """A directory `name` on this node that one process fills, by `fill(folder)`, for all: `needed` bytes, complete with
    the file `marker` in it. `what` is said of it: 'copied to'."""

    name: str
    marker: str
    needed: int
    fill: Callable[[Path], None]
    what: str


def made_once(filling: Filling) -> tuple[Path | None, str]:
    """The directory, filled by whoever comes first, in the first place that takes it; None with the reasons where none
    does. It is removed as the copies are.

    Raises:
        What `fill` raises, but for OSError, which is one of the reasons.
    """
    reasons = []
    for place in local_directories():
        try:
            return _made_in(place, filling), ""
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
    return None, "; ".join(reasons) or "there is none"


def private_directory(name: str) -> Path | None:
    """A directory `name` on this node that nobody else can enter, shared by this person's processes and removed as the
    copies are; None where there is no place for it."""
    for place in local_directories():
        try:
            return _hold(_own_directory(place / f"slurmtune-{os.getuid()}"), name)
        except OSError as error:
            _warn_once(f"{place} is not used for {name}: {error.strerror or error}.")
    return None


def _hold(root: Path, name: str) -> Path:
    target, end = root / name, time.monotonic() + _GONE
    while target not in _leases:
        if (handle := _try_lock(root / f"{name}.lock", fcntl.LOCK_SH)) is not None:
            target.mkdir(mode=0o700, exist_ok=True)
            return _keep(target, handle)
        if time.monotonic() > end:
            raise TimeoutError(0, f"{target} has been locked for {_GONE:.0f} s")
        time.sleep(0.05)  # its last user is removing it
    return target


def remove_copies() -> None:
    """Removes this person's copies on this node that no process uses."""
    for place in local_directories():
        root = place / f"slurmtune-{os.getuid()}"
        if not root.is_dir():
            continue
        for lock in root.glob("*.lock"):
            _remove_unused(root, lock)
        try:
            root.rmdir()
        except OSError:
            continue  # in use


def _made_in(place: Path, filling: Filling) -> Path:
    """The directory below `place`, made if it is not there. OSError: it cannot be made there."""
    root = _own_directory(place / f"slurmtune-{os.getuid()}")
    key = filling.name
    target = root / key
    if target in _leases and (target / filling.marker).is_file():
        return target
    end, busy = time.monotonic() + _DEADLINE, time.monotonic()
    while time.monotonic() < end:
        handle = _try_lock(root / f"{key}.lock", fcntl.LOCK_SH)
        if handle is None:
            busy = time.monotonic()  # somebody copies
        elif time.monotonic() - busy > _GONE:
            os.close(handle)
            raise FileNotFoundError(0, f"{target} was removed while others use it")
        if handle is not None and (target / filling.marker).is_file():
            return _keep(target, handle)
        if handle is not None:
            os.close(handle)
            handle = _try_lock(root / f"{key}.lock", fcntl.LOCK_EX)
        if handle is None:
            time.sleep(0.1)
            continue
        try:
            if not (target / filling.marker).is_file():
                _make(target, filling)
        finally:
            os.close(handle)  # and share it in the next round
    raise TimeoutError(0, f"another process has been copying for {_DEADLINE:.0f} s")


def _keep(target: Path, handle: int) -> Path:
    if not _leases and not os.environ.get(SUPERVISED_VARIABLE):
        atexit.register(_release_all)
    _leases[target] = handle
    return target


def _release_all() -> None:
    while _leases:
        os.close(_leases.popitem()[1])
    remove_copies()


def _make(target: Path, filling: Filling) -> None:
    """Fills it below another name and renames; the lock is ours alone."""
    building = target.with_name(f".{target.name}.copying")
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    free = free_bytes(target.parent)
    if free < filling.needed * 1.05 + _SPARE:
        raise OSError(0, f"{free >> 20} MiB free, {filling.needed >> 20} MiB of data")
    started = time.monotonic()
    try:
        building.mkdir(mode=0o700)
        filling.fill(building)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    took = time.monotonic() - started
    logger.info("%d MiB %s %s in %.0f s", filling.needed >> 20, filling.what, target, took)


def _copy(directory: Path, manifest: Manifest, building: Path) -> None:
    for record in manifest.shards:
        _copy_shard(directory / record.path, building / record.path, record)
    if manifest.link:
        _copy_link(directory, building, manifest.link)
    shutil.copyfile(directory / MANIFEST, building / MANIFEST)


def _copy_link(directory: Path, building: Path, link: Link) -> None:
    target = building / Path(link.path).name
    shutil.copyfile(link.file(directory), target)
    if target.stat().st_size != link.size:
        raise DataError(f"{link.path} changed while it was copied; leave data alone while a sweep reads it.")
    link.file(directory)  # not changed meanwhile
    os.utime(target, ns=(link.mtime_ns, link.mtime_ns))
    shutil.copyfile(directory / INDEX, building / INDEX)


def _copy_shard(source: Path, target: Path, record: ShardRecord) -> None:
    checksum, memory = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with source.open("rb", buffering=0) as reading, target.open("xb", buffering=0) as writing:
        while count := reading.readinto(memory):
            checksum.update(memory[:count])
            writing.write(memory[:count])
    size = target.stat().st_size
    if size != record.size or checksum.hexdigest() != record.sha256:
        raise DataError(
            f"shard {source} is not as its manifest says ({size} bytes, expected {record.size}, or another sha256); "
            "run prepare.py --check, then copy it again."
        )
    os.utime(target, ns=(record.mtime_ns, record.mtime_ns))  # as written: offsets of the manifest hold


def _own_directory(root: Path) -> Path:
    """`root`, made if need be: a directory of ours that nobody else can enter."""
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(0, f"{root} is not a directory of ours with mode 0700")
    return root


def _try_lock(path: Path, kind: int) -> int | None:
    """The open lock file with a lock of that kind, or None when another process holds one that excludes it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:  # else it was removed before we had it
            return handle
    except BlockingIOError:
        pass
    os.close(handle)
    return None


def _remove_unused(root: Path, lock: Path) -> None:
    handle = _try_lock(lock, fcntl.LOCK_EX)
    if handle is None:
        return
    name = lock.name.removesuffix(".lock")
    shutil.rmtree(root / name, ignore_errors=True)
    shutil.rmtree(root / f".{name}.copying", ignore_errors=True)
    lock.unlink(missing_ok=True)
    os.close(handle)


def _warn_once(text: str, say: Callable[[str], None] = logger.warning) -> None:
    if text not in _warned:
        _warned.add(text)
        say(text)
