"""Rank 0 of an attempt: Ray's head, the driver, and the decision whether there is to be another attempt."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.cluster.allocation import FOREGROUND, Allocation, describe_signal
from hpo.cluster.fencing import fence_others
from hpo.cluster.jobs import cancel_jobs, read_jobs
from hpo.cluster.processes import Child, is_there
from hpo.cluster.quorum import SHORT
from hpo.cluster.rendezvous import LOOPBACK, own_address, reachable
from hpo.cluster.requeue import requeue
from hpo.cluster.supervisor import END_GRACE_S, POLL_S, START_TRIES, Supervisor, log_of, say
from hpo.cluster.terms import Terms, fruitless, read_terms, spent
from hpo.errors import STOPPED
from hpo.layout import SweepDirectory, read_json
from hpo.records import SweepState, read_events
from hpo.usage import Usage, origin

_HEAD_DEADLINE_S = 60
_DRAIN_S = 20  # for the driver to save and leave, less than SLURM's usual 30 s between SIGTERM and SIGKILL
_SETTLE_S = 5  # in which a Ray that the driver has failed with ends as well
_LOOK_S = 2.0  # at the requests that come as files
_CRASHED = 4  # exit code of an attempt whose Ray or driver was lost


class HeadSupervisor(Supervisor):
    """`again` after `run`: the same job should make another attempt, since this one crashed. `queued`: SLURM has been
    asked to start the job once more."""

    def __init__(self, directory: SweepDirectory, allocation: Allocation) -> None:
        super().__init__(directory, allocation)
        self.again = self.queued = False
        self._resolved: dict[str, Any] = read_json(directory.resolved)
        self._terms: Terms = read_terms(self._resolved)
        if self._terms.pool:  # no trial runs beside a pool's head
            self.allocation = replace(self.allocation, cpus=0, gpus=0)
        self._looked = 0.0
        self._foreground = os.environ.get(FOREGROUND, "")
        self._alone = False  # no other host is to join: Ray listens on loopback alone
        self._reopening = ""  # why it is to listen elsewhere as well, in another attempt

    def _work(self) -> int:
        fenced = fence_others(self.directory, self.allocation)
        self._ensure_data()
        self._alone = self.allocation.nodes == 1 and not self._terms.pool and not read_jobs(self.directory, "worker")
        address = LOOPBACK if self._alone else own_address()
        driver = self._start_driver(address, fenced)
        head = self._start_head(address)
        if head:
            self._announce(address)
        code = self._watch(driver, head) if head else STOPPED
        self.rendezvous.phase("driver", code=code)
        if code == _CRASHED:
            self.again = not self._walltime_near() and not self._why_not_again()
        elif code == STOPPED and self._reopening and not self.asked:
            self.again = not self._why_not_again()
        elif code == STOPPED and (self.asked in ("walltime", "SIGUSR2") or self.rendezvous.read(SHORT)):
            self._requeue()
        elif code == STOPPED and self.asked and self.allocation.job:
            say(f"stopped before its end; go on with submit.py --resume {self.directory.root}")
        if self._terms.pool and not self.again and (code not in (STOPPED, _CRASHED) or self._why_not_again()):
            workers = [record.job for record in read_jobs(self.directory, "worker")]
            cancel_jobs(workers, pending_only=True)  # those that run see the end by themselves
        return code

    def _end(self, grace_s: float = END_GRACE_S) -> None:
        with suppress(OSError):  # a full or vanished file system must not keep processes alive
            self.rendezvous.stop()
        super()._end(grace_s)

    # -- the start --------------------------------------------------------------------------------------------------

    def _ensure_data(self) -> None:
        if self._resolved["bundled"]:
            from hpo.data.bundled import ensure_demo_data

            self.rendezvous.announce("preparing", data=self._resolved["data"])
            ensure_demo_data(Path(self._resolved["data"]))
            self.rendezvous.withdraw("preparing")
            self.rendezvous.phase("data")

    def _start_driver(self, address: str, fenced: bool) -> Child:
        """The driver imports Ray while the head starts, so it is started first and told of the head by its file."""
        command = [sys.executable, "-m", "hpo.cluster.driver_main", str(self.directory.root), self.allocation.attempt]
        return self._start("driver", [*command, *(["fenced"] if fenced else [])], self._environment(address))

    def _start_head(self, address: str) -> Child | None:
        """None: we were asked to stop meanwhile."""
        for tries in range(START_TRIES):
            head = self._start_ray("head", "", address, tries)
            assert self._node is not None
            if self._came_up(head, self._node.gcs, _HEAD_DEADLINE_S):
                return head
            self._drop(head)
            if self.asked:
                return None
        raise self._failed_start("head")

    def _announce(self, address: str) -> None:
        assert self._node is not None
        self.rendezvous.announce(
            "head",
            gcs=self._node.gcs,
            ip=address,
            alone=self._alone,
            host=self.allocation.hostname,
            job=self.allocation.job,
            mode=self._terms.mode or "gang",
            nodes=self.allocation.nodes,
            cpus=self.allocation.cpus,
            gpus=self.allocation.gpus,
            temp=str(self._node.temp),
            started=self.started,
        )
        if not self._terms.pool:
            self.rendezvous.announce(f"worker-{self.allocation.worker}", **self.about())
        self.rendezvous.phase("head")

    # -- while it runs ----------------------------------------------------------------------------------------------

    def _watch(self, driver: Child, head: Child) -> int:
        deadline = None
        while (code := driver.poll()) is None:
            self._look_around()
            if (reason := self.asked or self._reopening) and deadline is None:
                say(f"stopping because of {reason}")
                deadline = time.monotonic() + _DRAIN_S
                words = describe_signal(signal.SIGTERM) if reason == "SIGTERM" else reason
                with suppress(OSError):  # a full disk: the driver is told all the same
                    self.rendezvous.announce("asked", reason=words, next=self._why_not_again())
                driver.send(signal.SIGTERM)
            if deadline and time.monotonic() > deadline:
                return STOPPED
            if head.poll() is not None and deadline is None:
                break
            time.sleep(POLL_S)
        if code == 0 or (code == STOPPED and self.asked):
            return code
        if code is not None and code > 0 and not self._ray_is_gone(head):
            return code
        lost = driver if code is not None and code < 0 else head
        say(f"{lost.name} ended by itself (exit {lost.poll()}); see {log_of(self.rendezvous, lost)}")
        return STOPPED if self.asked else _CRASHED

    def _ray_is_gone(self, head: Child) -> bool:
        """Whether Ray's head has died, which the driver may notice before `ray start` does."""
        assert self._node is not None
        end = time.monotonic() + _SETTLE_S
        while time.monotonic() < end:
            if head.poll() is not None or not reachable(self._node.gcs):
                return True
            time.sleep(POLL_S)
        return False

    def _look_around(self) -> None:
        if self._walltime_near():
            self.asked = self.asked or "walltime"
        if self._foreground and not is_there(self._foreground):
            self.asked = self.asked or "the end of the command that it belongs to"
        if time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            if self.directory.stop_request.exists():
                self.asked = self.asked or "submit.py --stop"
            elif self.rendezvous.stopped:
                self.asked = self.asked or "another attempt, which takes its place"
            elif self._alone and read_jobs(self.directory, "worker"):
                self._reopening = "workers of other hosts, which are to join"

    # -- what comes after -------------------------------------------------------------------------------------------

    def _why_not_again(self) -> str:
        """Why no other attempt should follow by itself; '' when one should."""
        events = read_events(self.directory.journal)
        if SweepState(events).ended:
            return "the sweep has ended"
        if self.directory.stop_request.exists():
            return "submit.py --stop asked for its end"
        usage = Usage(events)
        return spent(usage, self._terms) or fruitless(usage, origin(self.allocation.job, self.allocation.attempt))

    def _requeue(self) -> None:
        if not self.allocation.job:
            return
        if why := self._why_not_again():
            say(f"not queued again: {why}")
        elif refusal := requeue(self.allocation.job):
            say(f"SLURM refused to requeue ({refusal}); go on with submit.py --resume {self.directory.root}")
        else:
            self.queued = True
            say(f"job {self.allocation.job} is queued again and will go on from here.")
