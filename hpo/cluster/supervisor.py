"""The two kinds of supervisor: rank 0 keeps Ray's head and the driver, each other rank keeps a Ray worker.

A supervisor imports neither Ray nor torch. It starts children, watches them, passes on what the batch system says,
and ends everything it started: when it returns, nothing of the attempt is left on its host.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hpo.cluster.allocation import Allocation
from hpo.cluster.processes import Child, end_processes, find_processes
from hpo.cluster.raynode import RayNode, prepare_node, ray_environment, remove_abandoned, remove_temp
from hpo.cluster.rendezvous import Rendezvous, own_address, reachable
from hpo.cluster.requeue import requeue_if_unfinished
from hpo.errors import ClusterError
from hpo.layout import SweepDirectory, read_json

_HEAD_DEADLINE_S = 60
_JOIN_DEADLINE_S = 120
_START_TRIES = 3
_POLL_S = 0.2
_DRAIN_S = 20  # for the driver to save and leave, less than SLURM's usual 30 s between SIGTERM and SIGKILL
_LEAD_S = 60  # before the walltime, when draining begins on our own clock; a quarter of a job shorter than 4 minutes
STOPPED = 75  # what the driver returns when it was asked to stop


class _Supervisor:
    """What both kinds share: signals, the node's Ray, and the end."""

    def __init__(self, directory: SweepDirectory, allocation: Allocation) -> None:
        self.directory, self.allocation = directory, allocation
        self.rendezvous = Rendezvous(directory.attempt(allocation.attempt))
        self.asked = ""  # why we are to stop: SIGTERM, SIGINT, SIGUSR2, walltime
        self._started = float(os.environ.get("SLURMTUNE_STARTED") or time.time())  # when the batch script began
        self._children: list[Child] = []
        self._logs: list[IO[bytes]] = []
        self._node: RayNode | None = None
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

    def _on_signal(self, signum: int, frame: Any) -> None:
        if signum != signal.SIGUSR2 or self.allocation.rank == 0:  # the walltime is rank 0's to plan for
            self.asked = self.asked or signal.Signals(signum).name

    def _start(self, name: str, command: list[str], environ: dict[str, str], ignore_usr: bool = True) -> Child:
        log = (self.rendezvous.folder / f"{name}.log").open("ab")
        os.fchmod(log.fileno(), 0o600)
        self._logs.append(log)
        child = Child(name, command, environ, log, ignore_usr)
        self._children.append(child)
        return child

    def _start_ray(self, name: str, head: str | None, address: str, deadline_s: float) -> Child:
        """Starts Ray on this host, with other ports when a neighbour takes ours first."""
        for attempt in range(_START_TRIES):
            self._node = prepare_node(self.allocation, address, attempt)
            ray = self._start(name, self._node.command(head), ray_environment(self.directory.token, self._node))
            if head or self._came_up(ray, self._node.gcs, deadline_s):
                return ray
            ray.end(1)
            self._children.remove(ray)
            if self.asked:
                break
        log = self.rendezvous.folder / f"{name}.log"
        raise ClusterError(f"Ray did not start on {self.allocation.hostname} in {_START_TRIES} tries; see {log}.")

    def _came_up(self, ray: Child, gcs: str, deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end and ray.poll() is None and not self.asked:
            if reachable(gcs, 0.2):
                return True
            time.sleep(0.05)
        return False

    def _end(self) -> None:
        """Ends our children, then whatever of the attempt is still there, then the temp directory."""
        with suppress(OSError):  # a full or vanished file system must not keep processes alive
            self.rendezvous.stop()
        for child in self._children:  # the driver first, the head last
            child.end(grace_s=4)
        for log in self._logs:
            log.close()
        if self._node:
            if left := end_processes(find_processes(str(self._node.temp))):
                sys.stderr.write(f"slurmtune: processes {left} on {self.allocation.hostname} could not be ended.\n")
            remove_temp(self._node)
            remove_abandoned(self._node, (folder.name for folder in self.rendezvous.folder.parent.iterdir()))


class HeadSupervisor(_Supervisor):
    """Rank 0."""

    def _work(self) -> int:
        self._ensure_data()
        address = own_address()
        driver = self._start_driver(address)
        head = self._start_ray("head", None, address, _HEAD_DEADLINE_S)
        assert self._node is not None
        self.rendezvous.announce(
            "head",
            gcs=self._node.gcs,
            ip=address,
            host=self.allocation.hostname,
            job=self.allocation.job,
            nodes=self.allocation.nodes,
            cpus=self.allocation.cpus,
            gpus=self.allocation.gpus,
            temp=str(self._node.temp),
            started=self._started,
        )
        self.rendezvous.phase("head")
        return self._watch(driver, head)

    def _ensure_data(self) -> None:
        resolved = read_json(self.directory.resolved)
        if resolved["bundled"]:
            from hpo.data.bundled import ensure_demo_data

            ensure_demo_data(Path(resolved["data"]))
            self.rendezvous.phase("data")

    def _start_driver(self, address: str) -> Child:
        """The driver imports Ray while the head starts, so it is started first and told of the head by its file."""
        command = [sys.executable, "-m", "hpo.cluster.driver", str(self.directory.root), self.allocation.attempt]
        node = prepare_node(self.allocation, address)
        return self._start("driver", command, ray_environment(self.directory.token, node), ignore_usr=True)

    def _watch(self, driver: Child, head: Child) -> int:
        deadline = None
        while (code := driver.poll()) is None:
            if self._walltime_near():
                self.asked = self.asked or "walltime"
            if self.asked and deadline is None:
                sys.stderr.write(f"slurmtune: stopping because of {self.asked}\n")
                deadline = time.monotonic() + _DRAIN_S
                driver.send(signal.SIGTERM)
            if deadline and time.monotonic() > deadline:
                code = STOPPED
                break
            if head.poll() is not None and deadline is None:
                raise ClusterError(
                    f"Ray's head ended by itself; see {self.rendezvous.folder / 'head.log'}, "
                    f"then go on with submit.py --resume {self.directory.root}."
                )
            time.sleep(_POLL_S)
        self.rendezvous.phase("driver", code=code)
        if code == STOPPED and self.asked in ("walltime", "SIGUSR2"):
            requeue_if_unfinished(self.directory, self.allocation.job)
        return code if code >= 0 else 128 - code  # as a shell says that a signal ended it

    def _walltime_near(self) -> bool:
        end = self.allocation.end_time
        return end is not None and time.time() > end - min(_LEAD_S, (end - self._started) / 4)


class WorkerSupervisor(_Supervisor):
    """Any other rank."""

    def _work(self) -> int:
        head = self._await_head()
        if head is None:
            return 0
        ray = self._start_ray(f"worker-{self.allocation.rank}", head["gcs"], own_address(), _JOIN_DEADLINE_S)
        self.rendezvous.phase("worker")
        while not self.rendezvous.stopped and not self.asked:
            if ray.poll() is not None:
                log = self.rendezvous.folder / f"{ray.name}.log"
                raise ClusterError(f"Ray's worker on {self.allocation.hostname} ended by itself; see {log}.")
            time.sleep(_POLL_S * 2)
        return 0

    def _await_head(self) -> dict[str, Any] | None:
        end = time.monotonic() + _HEAD_DEADLINE_S * _START_TRIES
        while time.monotonic() < end and not self.asked and not self.rendezvous.stopped:
            head = self.rendezvous.read("head")
            if head and reachable(head["gcs"], 0.5):
                return head
            time.sleep(0.1)
        if self.asked or self.rendezvous.stopped:
            return None
        raise ClusterError(
            f"Ray's head could not be reached from {self.allocation.hostname}; "
            "name the network interface that the hosts share in SLURMTUNE_INTERFACE."
        )
