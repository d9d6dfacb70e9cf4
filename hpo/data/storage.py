"""Where files lie: on this node or across a network, and which of this node's directories take large files.

SLURMTUNE_LOCAL_DIRS   directories for large files, in order, ':' between them; the site's or the person's to say.
                       Default: $SLURM_TMPDIR, $LOCAL_TMPDIR, $TMPDIR and /tmp, those on a disk of this node.
"""

from __future__ import annotations

import os
from pathlib import Path

LOCAL_DIRS_VARIABLE = "SLURMTUNE_LOCAL_DIRS"
USUAL_VARIABLES = ("SLURM_TMPDIR", "LOCAL_TMPDIR", "TMPDIR")
_SHARED = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "smbfs", "afs", "pvfs2", "orangefs"),
    *("panfs", "wekafs", "9p", "glusterfs", "gfs2", "ocfs2", "virtiofs"),
}
MEMORY = {"tmpfs", "ramfs"}


def is_shared(path: Path) -> bool:
    """Whether `path` lies on a network file system, as far as its type tells; unknown ones of FUSE count as such."""
    kind = filesystem_of(path)
    return kind in _SHARED or kind.startswith("fuse")


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path`, '' where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    place, best, kind = path.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].encode().decode("unicode_escape"))
        if place.is_relative_to(mounted) and len(mounted.parts) >= best:  # a later mount hides an earlier one
            best, kind = len(mounted.parts), after.split()[0]
    return kind


def local_directories() -> list[Path]:
    """Directories on this node that are there and can be written, the best first."""
    named = os.environ.get(LOCAL_DIRS_VARIABLE, "")
    if named:
        wanted = [Path(name).expanduser() for name in named.split(os.pathsep) if name]
    else:
        usual = [*(os.environ.get(name, "") for name in USUAL_VARIABLES), "/tmp"]
        wanted = [Path(name) for name in usual if name and not is_shared(Path(name))]
        wanted = [path for path in wanted if filesystem_of(path) not in MEMORY]  # it would eat the job's memory
    return [path for path in dict.fromkeys(wanted) if path.is_dir() and os.access(path, os.W_OK | os.X_OK)]


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
