"""What submitit runs on every host of a job: one attempt on the sweep in a directory, or a worker of a pool.

    python -m hpo.cluster.attempt DIR            (the same by hand, from slurm/gang.sbatch and the like)
    python -m hpo.cluster.attempt --worker DIR   (from slurm/pool_worker.sbatch)

Rank 0 supervises Ray's head and the driver, the other ranks a Ray worker each. What is pickled is the path alone:
code and configuration are read from disk, so a requeued job does not run on an old copy of either.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hpo.cluster.allocation import FOREGROUND, Allocation, find_allocation
from hpo.cluster.head import HeadSupervisor
from hpo.cluster.jobs import read_job, record_job
from hpo.cluster.poolworker import PoolWorker
from hpo.cluster.request import SlurmRequest
from hpo.cluster.supervisor import say
from hpo.cluster.worker import WorkerSupervisor
from hpo.errors import ClusterError, SlurmtuneError, explain_storage
from hpo.layout import SweepDirectory, absolute
from hpo.ownership import open_own_sweep

__all__ = ["DEVICES", "FOREGROUND", "Attempt", "Worker"]
_UNSAID = 100  # more than the exit code, for slurm/job.sh: srun's own codes, of lost tasks and hosts, are small as well
DEVICES = "SLURMTUNE_DEVICES"  # a person's CUDA_VISIBLE_DEVICES, past submitit's local executor


@dataclass(frozen=True)
class Attempt:
    """The callable for submitit. Exits with the attempt's code, so that SLURM's job state tells the same."""

    directory: str

    def __call__(self) -> None:
        if DEVICES in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[DEVICES]
        allocation, directory = find_allocation(), _open(self.directory)
        follow = functools.partial(_follow, directory, allocation)
        code = _lead(directory, allocation) if allocation.rank == 0 else _explained(follow)
        if code:
            raise SystemExit(code)


@dataclass(frozen=True)
class Worker:
    """The callable of a pool's worker job."""

    directory: str

    def __call__(self) -> None:
        allocation, directory = find_allocation(), _open(self.directory)
        code = _explained(functools.partial(_join, directory, allocation))
        if code:
            raise SystemExit(code)


def _open(path: str) -> SweepDirectory:
    try:
        return open_own_sweep(path)
    except SlurmtuneError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None


def _record(directory: SweepDirectory, allocation: Allocation, role: str) -> None:
    """Of a job that was submitted by hand nobody has yet written down that it is the sweep's."""
    if allocation.job and "SUBMITIT_EXECUTOR" not in os.environ and read_job(directory, allocation.job) is None:
        record_job(directory, allocation.job, role, SlurmRequest())


def _join(directory: SweepDirectory, allocation: Allocation) -> int:
    _record(directory, allocation, "worker")
    return PoolWorker(directory, allocation).run()


def _follow(directory: SweepDirectory, allocation: Allocation) -> int:
    return WorkerSupervisor(directory, allocation).run()


def _lead(directory: SweepDirectory, allocation: Allocation) -> int:
    """Rank 0: one attempt, and others in the same job as long as they crash and yet get somewhere."""
    made: list[HeadSupervisor] = []
    unsaid = _UNSAID if "SLURMTUNE_ATTEMPT" in os.environ else 0

    def attempt() -> int:
        _record(directory, allocation, "attempt")
        made.append(HeadSupervisor(directory, allocation.again(len(made))))
        return made[-1].run()

    for count in itertools.count(1):
        code = _explained(attempt)
        if len(made) < count:  # nobody is there to write down how it ended
            return code + unsaid
        supervisor = made[-1]
        again = supervisor.again and not supervisor.asked
        try:
            supervisor.rendezvous.announce("exit", code=code, again=again, queued=supervisor.queued)
        except OSError as error:  # a full disk
            say(f"that the attempt ended with exit code {code} could not be written down ({error.strerror})")
            code += unsaid
        if not again:
            return code
        say(f"another attempt, {allocation.again(count).attempt}")
    raise AssertionError("unreachable")


def _explained(work: Callable[[], int]) -> int:
    """The exit code of `work`, or of the error that ended it, which is said on one line."""
    try:
        return work()
    except SlurmtuneError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:  # a full disk, a file system that has gone
        say(f"error: {explain_storage(error) or error} ({socket.gethostname()}), then submit.py --resume goes on.")
        return ClusterError.exit_code


if __name__ == "__main__":
    *flags, root = sys.argv[1:]
    (Worker if "--worker" in flags else Attempt)(str(absolute(root)))()
