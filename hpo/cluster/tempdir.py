"""The directory on a node in which Ray keeps sockets and logs: short, ours alone, and removed whatever happens.

Ray makes its own directory 0777, so it gets one below a parent that only we can enter. While its supervisor lives, that
holds a shared flock on the file `lock` in it: whoever can take the lock alone may remove the directory, as the
supervisor's janitor does, or the next supervisor of the same person on this host.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from hpo.cluster.processes import find_processes
from hpo.data.storage import LOCAL_DIRS_VARIABLE, is_shared
from hpo.errors import ClusterError

_LONGEST = 43  # bytes; Ray adds 64 below it, and a socket's path has 107
_SIBLINGS = ("", "a", "b", "c")  # of the parent's name, where somebody else has taken the first
_FRESH_S = 60.0  # so long one without a lock may be one that is being made


class TempDirectory:
    """The directory of one attempt on this host, there and locked as long as this object is not removed.

    Raises:
        ClusterError: no place for it is short enough, or ours alone, or it cannot be made.
    """

    def __init__(self, attempt: str) -> None:
        self._lock = -1
        try:
            while self._lock < 0:
                self.path = _find_place(attempt)
                with suppress(FileNotFoundError):  # another one of ours has just removed the parent
                    self.path.mkdir(mode=0o700, exist_ok=True)
                self._lock = _take_lock(self.path, fcntl.LOCK_SH)
        except OSError as error:
            raise ClusterError(
                f"{error.filename or self.path} on {socket.gethostname()} cannot be used for Ray's files "
                f"({error.strerror}); set TMPDIR, or node_local of the site file, to another directory."
            ) from None

    def remove(self) -> None:
        remove_temp(self.path)
        os.close(self._lock)

    def remove_abandoned(self) -> None:
        """Removes those that were left on this host when their supervisor was killed together with its janitor."""
        for sibling in self.path.parent.iterdir():
            if sibling != self.path and sibling.is_dir():
                with suppress(OSError):
                    _remove_unused(sibling)


def remove_temp(path: Path) -> None:
    """Removes it, and its parent with the last one."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.parent.rmdir()


def _remove_unused(path: Path) -> None:
    if not (path / "lock").exists():  # it is being made, or a part of one that was removed
        if time.time() - path.stat().st_mtime > _FRESH_S and not find_processes(str(path)):
            shutil.rmtree(path, ignore_errors=True)
        return
    lock = _take_lock(path, fcntl.LOCK_EX)
    if lock >= 0:
        if not find_processes(str(path)):
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _take_lock(path: Path, kind: int) -> int:
    """The open lock file; -1 if another process has a lock that excludes it, or has just removed it."""
    try:
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return -1
    with suppress(BlockingIOError):
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return handle
    os.close(handle)
    return -1


def _find_place(attempt: str) -> Path:
    longest = f"/r{os.getuid()}{_SIBLINGS[-1]}/{attempt}"
    usable = [base for base in _bases() if len(bytes(base)) + len(longest) <= _LONGEST and _is_writable(base)]
    if not usable:
        raise ClusterError(
            f"of {', '.join(map(str, _bases()))} on {socket.gethostname()} none can be written and is short enough for "
            f"{longest} in the {_LONGEST} bytes that Ray's sockets leave; set TMPDIR to one that is."
        )
    for suffix in _SIBLINGS:
        parent = usable[0] / f"r{os.getuid()}{suffix}"
        parent.mkdir(mode=0o700, exist_ok=True)
        status = parent.lstat()
        if status.st_uid != os.getuid():  # anybody can make a directory of this name
            continue
        if stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077:
            return parent / attempt
        break
    raise ClusterError(f"{parent} is not a directory of ours with mode 0700; remove it, or set TMPDIR to another one.")


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and folder.is_dir()


def _bases() -> list[Path]:
    """Where it may go, the best first: what a person or the site names, then what the system does. Not on storage that
    hosts share, where locks may hold on one host alone, and every host's Ray would meet in one directory."""
    named = [name for name in os.environ.get(LOCAL_DIRS_VARIABLE, "").split(os.pathsep) if name]
    usual = [name for name in map(os.environ.get, ("SLURM_TMPDIR", "TMPDIR")) if name and not is_shared(Path(name))]
    return [Path(name).expanduser() for name in (*named, *usual, "/tmp")]
