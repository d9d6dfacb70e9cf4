"""What keeps Ray on a host: hpo.cluster.head for the head and the driver, hpo.cluster.worker for a worker.

A supervisor imports neither Ray nor torch. It starts children, watches them, passes on what the batch system says,
and ends everything it started: when it returns, nothing of the attempt is left on its host.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from hpo.cluster.allocation import Allocation
from hpo.cluster.janitor import Janitor
from hpo.cluster.ports import is_ours
from hpo.cluster.processes import Child, end_processes, find_processes
from hpo.cluster.raynode import START, RayNode, prepare_node, ray_environment
from hpo.cluster.rendezvous import Rendezvous, reachable
from hpo.cluster.tempdir import TempDirectory
from hpo.data.nodecopy import remove_copies
from hpo.errors import ClusterError
from hpo.layout import SweepDirectory

START_TRIES = 3
POLL_S = 0.2
END_GRACE_S = 4.0
_LEAD_S = 60  # before the walltime, when draining begins on our own clock; a quarter of a job shorter than 4 minutes


class Supervisor:
    """What both kinds share: signals, the node's Ray, and the end."""

    def __init__(self, directory: SweepDirectory, allocation: Allocation) -> None:
        self.directory, self.allocation = directory, allocation
        self.rendezvous = Rendezvous(directory.attempt(allocation.attempt))
        self.asked = ""  # why we are to stop: SIGTERM, SIGINT, SIGUSR2, walltime ...
        self.started = float(os.environ.get("SLURMTUNE_STARTED") or time.time())  # when the batch script began
        self.since = self.started  # since when this host is paid for, or serves again
        self._children: list[Child] = []
        self._logs: list[IO[bytes]] = []
        self._node: RayNode | None = None
        self._temp: TempDirectory | None = None
        self._janitor: Janitor | None = None
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(signum, self._on_signal)  # after submitit's own, which ignore SIGTERM

    def run(self) -> int:
        """Works until the attempt is over; returns its exit code."""
        try:
            return self._work()
        finally:
            self._end()

    def _work(self) -> int:
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """What the attempt's driver writes down of this host."""
        here = self.allocation
        return {"worker": here.worker, "host": here.hostname, "job": here.job, "cpus": here.cpus, "gpus": here.gpus,
                "since": self.since}  # fmt: skip

    def _heeds(self, signum: int) -> bool:
        return True

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._heeds(signum):
            self.asked = self.asked or signal.Signals(signum).name

    def _walltime_near(self) -> bool:
        end = self.allocation.end_time
        return end is not None and time.time() > end - min(_LEAD_S, (end - self.started) / 4)

    def _start(self, name: str, command: list[str], environ: dict[str, str], listens: bool = False) -> Child:
        """A child whose output goes to its log; `listens` as in Child."""
        log = (self.rendezvous.folder / f"{name}.log").open("ab")
        os.fchmod(log.fileno(), 0o600)
        self._logs.append(log)
        child = Child(name, command, environ, log, ignore_usr=True, listens=listens)
        self._children.append(child)
        return child

    def _start_ray(self, name: str, head: str, address: str, tries: int) -> Child:
        """Starts Ray on this host: a head, or with `head` (ip:port) a worker. `tries` counts earlier ones, which
        perhaps lost their ports to a neighbour."""
        if self._node:
            self._node.slot.close()
        self._node = prepare_node(self.allocation, self._place(), address, tries)
        return self._start(name, [*START, *self._node.arguments(head)], self._environment(address))

    def _environment(self, address: str) -> dict[str, str]:
        return ray_environment(self.directory.token, self._place(), address)

    def _place(self) -> Path:
        """The temp directory, made when it is first needed, and somebody who removes it if we cannot."""
        if self._temp is None:
            self._temp = TempDirectory(self.allocation.attempt)
            self._janitor = Janitor(self._temp.path)
            self._temp.remove_abandoned()
        return self._temp.path

    def _end_strays(self) -> list[int]:
        """Ends whatever of the attempt is still on this host; returns what could not be ended."""
        keep = self._janitor.pid if self._janitor else 0
        return end_processes(pid for pid in find_processes(str(self._place())) if pid != keep)

    def _drop(self, child: Child) -> None:
        child.end(1)
        self._children.remove(child)

    def _came_up(self, ray: Child, gcs: str, deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end and ray.poll() is None and not self.asked:
            if reachable(gcs, 0.2) and is_ours(int(gcs.rpartition(":")[2])):
                return True
            time.sleep(0.05)
        return False

    def _failed_start(self, name: str) -> ClusterError:
        log = self.rendezvous.folder / f"{name}.log"
        return ClusterError(f"Ray did not start on {self.allocation.hostname} in {START_TRIES} tries; see {log}.")

    def _end(self, grace_s: float = END_GRACE_S) -> None:
        """Ends our children, each after `grace_s` seconds at most, then whatever of the attempt is still there, then
        the temp directory."""
        for child in self._children:  # the driver first, the head last
            child.end(grace_s)
        for log in self._logs:
            log.close()
        self._children.clear()
        self._logs.clear()
        if self._node:
            self._node.slot.close()
            self._node = None
        if self._temp and self._janitor:
            if left := self._end_strays():
                say(f"processes {left} on {self.allocation.hostname} could not be ended.")
            self._temp.remove()
            remove_copies()
            self._janitor.dismiss()
            self._temp = self._janitor = None


def say(message: str) -> None:
    sys.stderr.write(f"slurmtune: {message}\n")
    sys.stderr.flush()


def log_of(rendezvous: Rendezvous, child: Child) -> Path:
    return rendezvous.folder / f"{child.name}.log"
