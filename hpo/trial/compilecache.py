"""What torch.compile made, kept on this node and handed on through the sweep's directory.

Inductor works in a directory of this node, which network file systems are too slow and too lax for; all trials there
share it. What it makes is published as archives in `compiled/KEY/` of the sweep, and a node that begins unpacks them.

Its files are shared objects and pickles, that is programs: they are taken from nowhere but a directory and files that
are ours alone (owner, no rights of others), checked when they are open. KEY holds what the code depends on without
saying so, above all the instructions of the CPU: code of a newer one would crash an older one.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from hpo.data.nodecopy import private_directory
from hpo.errors import UsageError
from hpo.layout import sync_folder
from hpo.ownership import PRIVATE, check_own, check_status

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
LIMIT = 2**30  # bytes of all archives of a KEY; what is made beyond stays on its node

logger = logging.getLogger(__name__)


class CompileCache:
    """`published`: where the sweep keeps what its nodes compiled; None keeps it on this node.

    A person's own TORCHINDUCTOR_CACHE_DIR is used as it is: nothing is unpacked there and nothing published.
    """

    _ours = ""  # the directory that this process has set the variable to

    def __init__(self, published: Path | None, device: str) -> None:
        key = _key(device)
        self._published = published / key if published else None
        self._known: set[str] = set()
        self.directory = self._choose(f"compiled-{_digest(str(published), key)}")
        if self.directory is None:
            self._published = None
        elif self._published:
            self._seed(self.directory, self._published)

    def _choose(self, name: str) -> Path | None:
        """The directory on this node, and torch told of it."""
        cls = CompileCache
        if os.environ.get(VARIABLE, "") not in ("", cls._ours, default_cache_dir()):  # torch sets the last one itself
            return None
        directory = private_directory(name) or _make_directory()
        os.environ[VARIABLE] = cls._ours = str(directory)
        return directory

    def _seed(self, directory: Path, published: Path) -> None:
        """Unpacks all archives. One that cannot be trusted or read is named in the log and left alone."""
        if not published.is_dir():
            return
        try:
            check_own(published.parent, PRIVATE)
            check_own(published, PRIVATE)
        except UsageError as error:
            logger.warning("compiled code is not taken: %s", error)
            return
        for path in sorted(published.glob("*.tar.gz")):
            try:
                self._known.update(_unpack(path, directory))
            except (UsageError, OSError, tarfile.TarError, EOFError) as error:
                logger.warning("compiled code in %s is not taken: %s", path, error)

    def publish(self) -> int:
        """Hands on what is new; the number of files. A file system without room is told in the log."""
        directory, published = self.directory, self._published
        if directory is None or published is None:
            return 0
        new = [name for name in _files(directory) if name not in self._known]
        if not new:
            return 0
        self._known.update(new)
        try:
            return len(new) if _pack(directory, new, published) else 0
        except OSError as error:
            logger.warning("compiled code is not published in %s (%s)", published, error.strerror or error)
            return 0


def _make_directory() -> Path:
    """For this process alone, where no place for directories of a node is."""
    directory = Path(tempfile.mkdtemp(prefix="slurmtune-compiled-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _files(directory: Path) -> Iterator[str]:
    """Names below `directory` of what another node can use."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        passing = name.parts[0] == "locks" or name.name.startswith(".") or path.suffix in (".lock", ".tmp")
        if path.is_file() and not passing:
            yield name.as_posix()


def _pack(directory: Path, names: list[str], published: Path) -> bool:
    """One archive more in `published`, whole or not at all; False when it would be too much."""
    for folder in (published.parent, published):
        folder.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", dir=published)
    try:
        with os.fdopen(handle, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # inductor's own, which came and went
                        archive.add(directory / name, name, recursive=False)
            stream.flush()
            os.fsync(stream.fileno())
        there = sum(path.stat().st_size for path in published.glob("*.tar.gz"))
        if there + Path(temporary).stat().st_size > LIMIT:
            logger.warning("%s has %d MiB of compiled code; no more is published", published, there >> 20)
            return False
        Path(temporary).rename(published / f"{_digest(*names)}-{os.urandom(4).hex()}.tar.gz")
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync_folder(published)
    return True


def _unpack(path: Path, directory: Path) -> set[str]:
    """The names in archive `path`, each of which is in `directory` now; none is written over.

    Raises:
        UsageError: the archive is not this user's alone. OSError, TarError, EOFError: it cannot be read.
    """
    names = set()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        check_status(path, os.fstat(handle), PRIVATE)
        with tarfile.open(fileobj=stream, mode="r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or not _is_inside(member.name):
                    raise tarfile.TarError(f"it has the member {member.name!r}")
                if not (directory / member.name).exists():
                    _write_new(directory / member.name, content.read())
                names.add(member.name)
    return names


def _is_inside(name: str) -> bool:
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts


def _write_new(path: Path, content: bytes) -> None:
    """Whole, since other trials of this node look for it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    Path(temporary).replace(path)


def _key(device: str) -> str:
    """What may not differ between who made the code and who runs it."""
    return _digest(device, torch.__version__, str(torch.version.cuda), platform.python_version(), _cpu())


def _cpu() -> str:
    """Machine and instructions of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {features}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
