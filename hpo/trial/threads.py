"""How many CPUs a trial has."""

from __future__ import annotations

import contextlib
import os

CPUS_VARIABLE = "SLURMTUNE_CPUS"


def count_cpus() -> int:
    """SLURMTUNE_CPUS, else OMP_NUM_THREADS, else those that the process may run on."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("OMP_NUM_THREADS", CPUS_VARIABLE):  # the later one wins
        with contextlib.suppress(ValueError):
            count = max(1, int(float(os.environ.get(name, "").split(",")[0])))
    return count
