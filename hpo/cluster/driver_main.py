"""The driver's process, of which no thread takes the signals that are to stop it.

    python -m hpo.cluster.driver_main DIR ATTEMPT [fenced]    (started by hpo.cluster.head on the same host)

A thread inherits what is blocked when it starts, and numpy and Ray start theirs while they are imported: so nothing is
imported here before the signals are blocked. hpo.cluster.driver waits for them.
"""

from __future__ import annotations

import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: list[str] | None = None) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    from hpo.cluster.driver import run

    return run(argv or sys.argv[1:])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Ray's own leave-taking aborts when its head has gone before us, and all is written already
