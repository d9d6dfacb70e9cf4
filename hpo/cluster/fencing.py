"""Makes sure that an attempt on a host that SLURM has given up does not go on beside its successor.

A host that is cut off from the network may still run its part of the job, with the journal's lock in its hand. Its
supervisor looks for STOP in its own folder; its successor writes it there, and its driver waits for the lock.
"""

from __future__ import annotations

from hpo.cluster.allocation import Allocation
from hpo.cluster.jobs import queue_states
from hpo.cluster.rendezvous import Rendezvous
from hpo.layout import SweepDirectory


def fence_others(directory: SweepDirectory, allocation: Allocation) -> bool:
    """Asks earlier attempts whose job SLURM runs no more to end; returns whether there were any that had not.

    An attempt of another job that is still in the queue is left alone: it has the journal, and ours will be refused.
    """
    if not allocation.job:
        return False
    open_ones: list[tuple[Rendezvous, str]] = []
    for folder in directory.attempt_folders():
        other = Rendezvous(folder)
        if folder.name != allocation.attempt and other.live and (head := other.read("head")):
            open_ones.append((other, head["job"]))
    foreign = {job for _, job in open_ones if job != allocation.job}
    at_work = queue_states(foreign)
    gone = [other for other, job in open_ones
            if job == allocation.job or (at_work is not None and job not in at_work)]  # fmt: skip
    for other in gone:
        other.stop()
    return bool(gone)
