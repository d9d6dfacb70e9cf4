"""What submitit runs on every host of a job: one attempt on the sweep in a directory.

    python -m hpo.cluster.attempt DIR      (the same by hand, from slurm/sweep.sbatch)

Rank 0 supervises Ray's head and the driver, the other ranks a Ray worker each. What is pickled is the path alone:
code and configuration are read from disk, so a requeued job does not run on an old copy of either.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from hpo.cluster.allocation import find_allocation
from hpo.cluster.rendezvous import Rendezvous
from hpo.cluster.supervisor import HeadSupervisor, WorkerSupervisor
from hpo.errors import SlurmtuneError
from hpo.layout import absolute, open_sweep

DEVICES = "SLURMTUNE_DEVICES"  # a person's CUDA_VISIBLE_DEVICES, past submitit's local executor


@dataclass(frozen=True)
class Attempt:
    """The callable for submitit. Exits with the attempt's code, so that SLURM's job state tells the same."""

    directory: str

    def __call__(self) -> None:
        if DEVICES in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[DEVICES]
        allocation = find_allocation()
        directory = open_sweep(self.directory)
        try:
            if allocation.rank == 0:
                code = HeadSupervisor(directory, allocation).run()
            else:
                code = WorkerSupervisor(directory, allocation).run()
        except SlurmtuneError as error:
            sys.stderr.write(f"slurmtune: error: {error}\n")
            code = error.exit_code
        if allocation.rank == 0:
            Rendezvous(directory.attempt(allocation.attempt)).announce("exit", code=code)
        if code:
            raise SystemExit(code)


if __name__ == "__main__":
    Attempt(str(absolute(sys.argv[1])))()
