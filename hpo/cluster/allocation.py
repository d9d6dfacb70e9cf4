"""What the batch system gave this process: job, rank, hosts, CPUs, GPUs, memory and how long it may run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hpo.cluster.commands import ask_slurm

FOREGROUND = "SLURMTUNE_FOREGROUND"  # on this machine: the command that the attempt ends with (processes.identify)
_COMMAND_DEADLINE_S = 20


@dataclass(frozen=True)
class Allocation:
    """One process's place in an attempt. `attempt` is the same on all ranks and never used twice."""

    attempt: str
    job: str  # SLURM's job id; '' on this machine
    rank: int
    nodes: int
    cpus: int
    gpus: int
    memory_mb: int | None
    end_time: float | None  # Unix seconds at which SLURM ends the job; None when nobody does
    restarts: int = 0  # how often SLURM has queued the job again

    @property
    def hostname(self) -> str:
        return socket.gethostname()

    @property
    def worker(self) -> str:
        """The name of this process's Ray node, in the journal and in Ray."""
        return f"{self.attempt}.{self.rank}"

    def again(self, count: int) -> Allocation:
        """The same place in the `count`-th further attempt that this job makes, after Ray or the driver crashed."""
        return replace(self, attempt=f"{self.attempt}-{count}") if count else self


def find_allocation(environ: Mapping[str, str] = os.environ) -> Allocation:
    """The allocation that this process runs in, from SLURM's environment or, without one, from the machine. An attempt
    of --cluster local inside an interactive job has that job's host and time, and is not its to queue again."""
    around = environ.get("SLURM_JOB_ID", "") if "SLURM_PROCID" in environ else ""
    job = "" if FOREGROUND in environ else around
    mark = environ.get("SLURMTUNE_ATTEMPT") or os.urandom(4).hex()
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    return Allocation(
        attempt=f"{job}.{restarts}.{mark}" if job else f"local.{mark}",
        job=job,
        rank=int(environ.get("SLURM_PROCID", "0")) if job else 0,
        nodes=int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_JOB_NUM_NODES", "1")) if job else 1,
        cpus=_count_cpus(environ if around else {}),
        gpus=count_gpus(environ),
        memory_mb=_memory(environ) if around else None,
        end_time=_end_time(around, environ) if around else None,
        restarts=int(restarts) if job else 0,
    )


def describe_signal(signum: int, environ: Mapping[str, str] = os.environ) -> str:
    """Its name; of SIGTERM in a SLURM job also who may have sent it, as SLURM does not say which."""
    name = signal.Signals(signum).name
    return f"{name}, by scancel or a preemption" if name == "SIGTERM" and "SLURM_PROCID" in environ else name


def _count_cpus(environ: Mapping[str, str]) -> int:
    """CPUs that this process may use: SLURM's number, but never more than the affinity that it really has."""
    affinity = len(os.sched_getaffinity(0))
    given = environ.get("SLURM_CPUS_PER_TASK") or environ.get("SLURM_CPUS_ON_NODE")
    return min(int(given), affinity) if given and given.isdigit() else affinity


def count_gpus(environ: Mapping[str, str]) -> int:
    """GPUs by CUDA_VISIBLE_DEVICES, which SLURM sets; numbers, UUIDs and MIG ids count alike."""
    devices = environ.get("CUDA_VISIBLE_DEVICES", "")
    return 0 if devices in ("", "-1", "NoDevFiles") else len(devices.split(","))


def _memory(environ: Mapping[str, str]) -> int | None:
    if environ.get("SLURM_MEM_PER_NODE", "0").isdigit() and int(environ.get("SLURM_MEM_PER_NODE", "0")) > 0:
        return int(environ["SLURM_MEM_PER_NODE"])
    per_cpu = environ.get("SLURM_MEM_PER_CPU", "")
    cpus = environ.get("SLURM_CPUS_ON_NODE", "")
    return int(per_cpu) * int(cpus) if per_cpu.isdigit() and cpus.isdigit() else None


def _end_time(job: str, environ: Mapping[str, str]) -> float | None:
    """When SLURM will end the job. Newer versions say it in the environment; else squeue is asked, once, by rank 0."""
    if environ.get("SLURM_JOB_END_TIME", "").isdigit():
        return float(environ["SLURM_JOB_END_TIME"])
    if environ.get("SLURM_PROCID") != "0":
        return None
    try:
        answer = ask_slurm(["squeue", "-h", "-j", job, "-o", "%e"], _COMMAND_DEADLINE_S)
        return time.mktime(time.strptime(answer.stdout.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # no limit known: SLURM's signal has to do
