"""Whose a file is, before it is trusted: what others could have written decides neither what runs here nor for whom.

Standard library only. A sweep's directory may be shown to others (chmod g+rx); its secrets may not.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpo.errors import UsageError
from hpo.layout import SweepDirectory, open_sweep

PRIVATE, UNWRITABLE = 0o077, 0o022  # bits of group and others that must not be set


def open_own_sweep(path: str | Path) -> SweepDirectory:
    """The sweep in directory `path`, which is to be worked on.

    Raises:
        UsageError: there is none, it is another person's, others may write there, or its secrets are open.
    """
    directory = open_sweep(path)
    check_own(directory.root, UNWRITABLE, follow=True)
    check_own(directory.resolved, UNWRITABLE)
    check_own(directory.journal, UNWRITABLE)
    check_own(directory.secrets, PRIVATE)
    check_own(directory.token, PRIVATE)
    return directory


def check_own(path: Path, forbidden: int, follow: bool = False) -> None:
    """`path` is ours and none of the mode's bits `forbidden` is set. A link is refused, except with `follow`.

    Raises:
        UsageError: it is not so, or there is no such file.
    """
    try:
        status = path.stat() if follow else path.lstat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); restore it, or start the sweep anew.") from None
    check_status(path, status, forbidden)


def check_status(path: Path, status: os.stat_result, forbidden: int) -> None:
    """The same of what fstat said of an open file."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        remedy = "start a sweep of your own"
    elif stat.S_ISLNK(status.st_mode):
        remedy = "put the file itself in the link's place"
    elif mode & forbidden:
        who, what = "go", "rwx" if forbidden == PRIVATE else "w"
        remedy = f"if nobody has tampered with it, chmod {who}-{what} {path}"
    else:
        return
    raise UsageError(f"{path} is not this user's alone (owner {status.st_uid}, mode {mode:o}); {remedy}.")
