"""A Ray worker on one host: joins the attempt that is at work, starts Ray again where it dies, and leaves at the end.

A worker meets an attempt through its files. When another attempt follows, after a crash of Ray's head or of the
driver, it joins that as well. Of a gang, it also sees to the job when rank 0 is lost with its host.
"""

from __future__ import annotations

import json
import math
import signal
import time

from hpo.cluster.jobs import cancel_jobs
from hpo.cluster.processes import Child
from hpo.cluster.raynode import GCS_SILENCE_S, prepare_node
from hpo.cluster.raystart import COMMAND
from hpo.cluster.rendezvous import Rendezvous, find_live, own_address, reachable
from hpo.cluster.requeue import requeue, runs
from hpo.cluster.supervisor import END_GRACE_S, POLL_S, START_TRIES, Supervisor, log_of, say
from hpo.cluster.terms import IDLE_ATTEMPTS
from hpo.errors import ClusterError
from hpo.records import SweepState, read_events

_HEAD_DEADLINE_S = 180  # longer than rank 0 tries to start one, after which it says that it could not
_DATA_DEADLINE_S = 1800  # for data that rank 0 prepares before that
_NEXT_DEADLINE_S = 60  # for word from rank 0 after the end of an attempt, or of its host
_CALM_S = 600  # deaths of Ray longer ago are forgiven
_KNOCK_S = 2.0  # at the head's port
_SILENT_S = GCS_SILENCE_S  # a head that has not answered for so long, of an attempt that goes on, is lost with its host


class WorkerSupervisor(Supervisor):
    """Any rank of a gang but 0."""

    _gcs = ""  # of the head that we serve
    _heard = math.inf  # when it answered last, by the monotonic clock
    _knocked = 0.0
    _deserted = False  # rank 0 is lost, and the job has been seen to
    _warm: Child | None = None  # has imported Ray, and waits to be told of the head

    def _heeds(self, signum: int) -> bool:
        return signum != signal.SIGUSR2  # the walltime is rank 0's to plan for

    def _work(self) -> int:
        served: Rendezvous | None = None
        self._warm_up()
        while attempt := self._await_attempt(served):
            self.rendezvous = served = attempt
            try:
                self._serve()
            finally:
                self._end(grace_s=0 if (lost := self._head_is_lost()) else END_GRACE_S)
                self.since = time.time()
            if lost:
                self._see_to_the_job()
        return 0

    def _warm_up(self) -> None:
        self._warm = self._start(self._ray_name, [*COMMAND], self._environment(own_address()), listens=True)

    @property
    def _ray_name(self) -> str:
        return f"worker-{self.allocation.worker}"

    def _await_attempt(self, served: Rendezvous | None) -> Rendezvous | None:
        """The next attempt of this job; None when there will be none, or when rank 0 is lost."""
        began = time.monotonic()
        end = began + (_NEXT_DEADLINE_S if served else _HEAD_DEADLINE_S)
        while time.monotonic() < end and not (self.asked or self._deserted):
            if found := self._find_attempt(self.allocation.attempt):
                return found
            ended = (served or self.rendezvous).read("exit")
            if ended and not ended.get("again"):
                return None
            if served and self._head_is_lost():
                break
            if not served and time.monotonic() - began < _DATA_DEADLINE_S and self.rendezvous.read("preparing"):
                end = time.monotonic() + _HEAD_DEADLINE_S
            self.rendezvous.refresh()
            time.sleep(POLL_S)
        if self.asked or self._deserted:
            return None
        if served or self.rendezvous.read("head") is None:  # nor an exit: rank 0 was lost before it had a head
            self._see_to_the_job()
            return None
        raise ClusterError(
            f"Ray's head could not be reached from {self.allocation.hostname}; "
            "name the network interface that the hosts share in SLURMTUNE_INTERFACE."
        )

    def _find_attempt(self, prefix: str) -> Rendezvous | None:
        found = find_live(self.directory, prefix)
        head = found.read("head") if found else None
        return found if head and not head.get("alone") and reachable(head["gcs"], 0.5) else None

    def _serve(self) -> None:
        """Keeps Ray on this host for the attempt until it is over, its head has gone, or we are asked to leave."""
        head = self.rendezvous.read("head") or {}
        self._gcs, self._heard = head["gcs"], time.monotonic()
        deaths: list[float] = []
        while True:
            ray = self._join(head["gcs"], len(deaths))
            self.rendezvous.announce(self._ray_name, **self.about())
            self.rendezvous.phase("worker")
            if self._keep(ray):
                return
            self._drop(ray)
            self._end_strays()  # trials that the dead Ray has left
            if not reachable(head["gcs"], 2.0):
                say("Ray's head has gone")
                return
            deaths = [*(t for t in deaths if time.monotonic() - t < _CALM_S), time.monotonic()]
            log = log_of(self.rendezvous, ray)
            if len(deaths) >= START_TRIES:
                raise ClusterError(f"Ray's worker on {self.allocation.hostname} ended {START_TRIES} times; see {log}.")
            say(f"Ray's worker ended by itself, it is started again; see {log}")

    def _join(self, gcs: str, deaths: int) -> Child:
        """Ray on this host, as a worker of the head at `gcs`."""
        if warm := self._warm:
            self._warm = None
            self._node = prepare_node(self.allocation, self._place(), own_address())
            warm.tell(json.dumps(self._node.arguments(gcs)))
            return warm
        return self._start_ray(self._ray_name, gcs, own_address(), deaths)

    def _keep(self, ray: Child) -> bool:
        """Waits; True: it is time to leave, False: Ray has ended by itself."""
        while ray.poll() is None:
            if self._should_leave():
                return True
            time.sleep(POLL_S * 2)
        return self._should_leave()

    def _should_leave(self) -> bool:
        return bool(self.asked) or self.rendezvous.stopped or self._head_is_lost()

    # -- when rank 0 is lost ----------------------------------------------------------------------------------------

    def _head_is_lost(self) -> bool:
        """Whether the head has been silent for long, although its attempt has not ended."""
        now = time.monotonic()
        if now - self._knocked > _KNOCK_S:
            self._knocked = now
            if reachable(self._gcs, 1.0):
                self._heard = time.monotonic()
            else:
                self.rendezvous.refresh()
        return now - self._heard > _SILENT_S and not self.rendezvous.stopped

    def _see_to_the_job(self) -> None:
        """The batch script is lost with the host of rank 0, and SLURM, which is not to end the job when a host fails,
        would keep the other hosts for nothing until the walltime. So the job is queued again from here."""
        self._deserted = True
        job, restarts = self.allocation.job, self.allocation.restarts
        if not runs(job, restarts):
            return  # another rank was quicker, or SLURM
        say(f"nothing is heard of rank 0 of job {job}: its host is lost")
        state = SweepState(read_events(self.directory.journal))
        over = self.directory.stop_request.exists() or bool(state.ended)
        why = "the sweep has ended" if over else self._hopeless(state)
        if not why and (refusal := requeue(job)):
            why = f"SLURM refused to requeue ({refusal})"
        if not why:
            self.rendezvous.stop()  # for a head that is not lost but cut off: its successor waits for the journal
            say(f"job {job} is queued again")
        elif runs(job, restarts):
            hint = "" if over else f"; go on with submit.py --resume {self.directory.root}"
            say(f"{why}; job {job} is cancelled{hint}")
            cancel_jobs([job])

    def _hopeless(self, state: SweepState) -> str:
        """Whether the job starts again and again without an attempt that gets as far as the journal."""
        attempts = sum(attempt["job"] == self.allocation.job for attempt in state.attempts)
        lost = self.allocation.restarts + 1 - attempts
        return f"{lost} starts of the job brought no attempt" if lost >= IDLE_ATTEMPTS else ""
