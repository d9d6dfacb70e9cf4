"""The SLURM jobs of a sweep: a small file for each, so that any host can tell which there are, and what squeue says.

    DIR/jobs/ID.json    job, role (attempt or worker), request, replaces (the worker job whose place it takes, or ''),
                        released (a worker that is needed no more), t

Standard library only. One call of squeue serves for any number of jobs.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from hpo.cluster.commands import ask_slurm
from hpo.cluster.request import SlurmRequest
from hpo.layout import SweepDirectory, read_json, write_json

_DEADLINE_S = 30


@dataclass(frozen=True)
class JobRecord:
    """A job as it was submitted. `t`: Unix seconds."""

    job: str
    role: str
    request: SlurmRequest
    replaces: str = ""
    released: bool = False
    t: float = 0.0


def record_job(directory: SweepDirectory, job: str, role: str, request: SlurmRequest, replaces: str = "") -> None:
    directory.jobs.mkdir(mode=0o700, exist_ok=True)
    _write(directory, JobRecord(job, role, request, replaces, t=round(time.time(), 3)))


def release_job(directory: SweepDirectory, record: JobRecord) -> None:
    """Tells a worker job, when it looks, that it is needed no more."""
    _write(directory, replace(record, released=True))


def _write(directory: SweepDirectory, record: JobRecord) -> None:
    write_json(directory.jobs / f"{record.job}.json", asdict(record))


def read_job(directory: SweepDirectory, job: str) -> JobRecord | None:
    path = directory.jobs / f"{job}.json"
    if not path.is_file():
        return None
    values = read_json(path)
    return JobRecord(**{**values, "request": SlurmRequest(**values["request"])})


def read_jobs(directory: SweepDirectory, role: str = "") -> list[JobRecord]:
    """The sweep's jobs, oldest first; with `role` those of that role."""
    found = [read_job(directory, path.stem) for path in directory.jobs.glob("[!.]*.json")]
    return sorted((one for one in found if one and role in ("", one.role)), key=lambda one: one.t)


def queue_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """SLURM's word for each of `jobs` that is still in the queue (PENDING, RUNNING, COMPLETING ...); those not named
    have ended. None: SLURM gives no answer, so that nothing is known."""
    wanted = sorted(set(filter(None, jobs)))
    if not wanted:
        return {}
    # All of the user's jobs, those in hidden partitions too: squeue -j fails as a whole when it has forgotten one of
    # those named.
    answer = _run(["squeue", "-h", "--me", "--all", "-o", "%A %T"])
    if answer is None or answer.returncode:
        return None
    states = dict(re.findall(r"^(\d+) (\w+)", answer.stdout, re.MULTILINE))
    return {job: states[job] for job in wanted if job in states}


def cancel_jobs(jobs: Iterable[str], pending_only: bool = False) -> bool:
    """scancel; whether SLURM took it."""
    wanted = sorted(set(filter(None, jobs)))
    if not wanted:
        return True
    answer = _run(["scancel", *(["--state=PENDING"] if pending_only else []), *wanted])
    return answer is not None and answer.returncode == 0


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return ask_slurm(command, _DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
