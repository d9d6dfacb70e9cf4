"""The worker of a pool: a job of one host that serves whichever attempt on the sweep is at work.

It stays when its attempt ends and another one is coming, leaves when the sweep is over, when it is released or when no
head is in the queue any more, and puts itself back into the queue at its own walltime.
"""

from __future__ import annotations

import time

from hpo.cluster.jobs import queue_states, read_job, read_jobs
from hpo.cluster.rendezvous import Rendezvous
from hpo.cluster.requeue import requeue
from hpo.cluster.supervisor import say
from hpo.cluster.worker import WorkerSupervisor
from hpo.records import says_ended

_POLL_S = 1.0  # for an attempt, in a folder that grows with their number
_LOOK_S = 3.0  # at the files that say that we may go
_ASK_S = 20.0  # between two questions to SLURM


class PoolWorker(WorkerSupervisor):
    """A job's only rank."""

    _released = False
    _looked = 0.0

    def _warm_up(self) -> None:
        """A head may be hours away."""

    def _head_is_lost(self) -> bool:
        """Another one may come, in a job of its own, which is not ours to see to."""
        return False

    def _heeds(self, signum: int) -> bool:
        return True

    def _work(self) -> int:
        code = super()._work()
        if self.asked in ("SIGUSR2", "walltime") and not self._needless():
            refusal = requeue(self.allocation.job)
            say(f"SLURM refused to requeue: {refusal}" if refusal else "queued again at the walltime")
        return code

    def _await_attempt(self, served: Rendezvous | None) -> Rendezvous | None:
        asked_slurm, silent = time.monotonic(), 0
        while not self._should_leave_job():
            if found := self._find_attempt(""):
                return found
            if time.monotonic() - asked_slurm > _ASK_S:
                asked_slurm = time.monotonic()
                heads = queue_states(record.job for record in read_jobs(self.directory, "attempt"))
                silent = silent + 1 if heads == {} else 0
                if silent >= 2:  # not once: a head that is being requeued is missing for a moment
                    say("no head of this sweep is in the queue")
                    return None
            time.sleep(_POLL_S)
        return None

    def _should_leave(self) -> bool:
        return self._should_leave_job() or self.rendezvous.stopped

    def _should_leave_job(self) -> bool:
        if self._walltime_near():
            self.asked = self.asked or "walltime"
        if not self.asked and time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            self._released = self._needless()
        return bool(self.asked) or self._released

    def _needless(self) -> bool:
        """Whether nobody needs this job any more."""
        record = read_job(self.directory, self.allocation.job)
        if (record and record.released) or self.directory.stop_request.exists():
            return True
        return says_ended(self.directory.journal)
