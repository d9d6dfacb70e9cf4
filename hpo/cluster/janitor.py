"""Cleans up after a supervisor that was killed outright and could not do it.

    python -m hpo.cluster.janitor TEMP    (started by the supervisor, with a pipe to it as standard input)

The pipe ends when the supervisor does. Its children have heard of that by then, from the kernel; what of them is left
after a while is ended, then the temp directory goes, and the node's copies of data if nobody else reads them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hpo.cluster.processes import end_processes, find_processes
from hpo.cluster.tempdir import remove_temp

_ROOT = str(Path(__file__).resolve().parents[2])
_GRACE_S = 3.0  # for the driver to write down that the attempt has ended
_POLL_S = 0.2
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Janitor:
    """The supervisor's end: the janitor of temp directory `temp`, until it is dismissed."""

    def __init__(self, temp: Path) -> None:
        command = [sys.executable, "-m", "hpo.cluster.janitor", str(temp)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])}
        silence = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=silence,
            stderr=silence,
            start_new_session=True,
            preexec_fn=_turn_deaf,  # noqa: PLW1509  before a signal can come
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def dismiss(self) -> None:
        """There is nothing left for it to do."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.communicate(b"done", timeout=_GRACE_S)


def _turn_deaf() -> None:
    """Whoever ends a job signals to all of its processes; this one has to be the last."""
    for signum in _DEAF_TO:
        signal.signal(signum, signal.SIG_IGN)


def main(argv: list[str]) -> int:
    temp = argv[0]
    if sys.stdin.buffer.read():
        return 0
    end = time.monotonic() + _GRACE_S
    while (left := find_processes(temp)) and time.monotonic() < end:
        time.sleep(_POLL_S)
    end_processes(left)
    remove_temp(Path(temp))
    from hpo.data.nodecopy import remove_copies  # a fifth of a second, and mostly it is not needed

    remove_copies()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
