"""What the driver looks after beside the search goes on, and an attempt ends once."""

from __future__ import annotations

import errno
import threading
import time

from hpo.cluster.driver import Ending
from hpo.cluster.terms import Terms
from hpo.cluster.watch import Watch


class FullDisk:
    """Hosts of which the first look cannot be written down."""

    workers: dict = {}  # noqa: RUF012

    def __init__(self):
        self.looks = 0

    def look(self):
        self.looks += 1
        if self.looks == 1:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_system_that_fails_for_a_moment_does_not_end_the_watch():
    hosts, said = FullDisk(), []
    watch = Watch(hosts, Terms(), [], print, print, said.append)
    watch.start()
    end = time.monotonic() + 20
    while hosts.looks < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    watch.stop()
    assert len(said) == 1
    assert "No space left" in said[0]


def test_an_attempt_ends_once_and_who_comes_late_waits_for_it():
    """SIGTERM while the last files of an ended sweep are written must not cut them off."""
    closing, go_on, reasons = threading.Event(), threading.Event(), []

    def close(reason, over):
        closing.set()
        go_on.wait(20)
        reasons.append(reason)

    ending = Ending(close)
    first = threading.Thread(target=ending, args=("all trials have ended",))
    first.start()
    closing.wait(20)
    late = threading.Thread(target=ending, args=("stopped on request",))
    late.start()
    late.join(0.3)
    assert late.is_alive()
    go_on.set()
    late.join(20)
    assert reasons == ["all trials have ended"]
