"""How submit.py starts an attempt: on SLURM as a gang or a pool, or on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site
from hpo.config import SweepConfig
from hpo.layout import SweepDirectory
from launch.terminal import say


def print_scripts(
    directory: SweepDirectory,
    request: SlurmRequest,
    head: SlurmRequest | None,
    name: str,
    site: Site,
    role: str = "attempt",
) -> None:
    """The batch scripts to stdout: of a gang one, of a pool the head's and the one that all its workers have."""
    from hpo.cluster.submission import render_script

    if head is None:
        sys.stdout.write(render_script(request, directory, name, role, site))
        return
    worker = render_script(replace(request, nodes=1), directory, name, "worker", site)
    sys.stdout.write(render_script(head, directory, name, "head", site))
    sys.stdout.write(f"\n# ---- and for each of {request.nodes} workers:\n{worker}")


def submit(
    directory: SweepDirectory, request: SlurmRequest, head: SlurmRequest | None, name: str, as_json: bool
) -> int:
    """Submits an attempt and says which jobs it is.

    Raises:
        ClusterError: SLURM refused; nothing of it is left in the queue.
    """
    from hpo.cluster.submission import submit_attempt

    print_submitted(directory, submit_attempt(request, head, directory, name), request, head, as_json)
    return 0


def print_submitted(
    directory: SweepDirectory, jobs: list[str], request: SlurmRequest, head: SlurmRequest | None, as_json: bool
) -> None:
    """Which jobs an attempt is: of a pool the head's first."""
    job, *workers = jobs
    about: dict[str, Any] = {"job": job, "directory": str(directory.root), "request": asdict(request)}
    if head is not None:
        about |= {"workers": workers, "head": asdict(head)}
    print_jobs(directory, about, as_json)


def print_jobs(directory: SweepDirectory, about: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(about) + "\n")
        return
    lines = {"job": about.get("job"), "workers": " ".join(about.get("workers", [])), "directory": directory.root,
             "next": f"{script('results.py')} {directory.root}"}  # fmt: skip
    sys.stdout.write("".join(f"{name:<9}  {value}\n" for name, value in lines.items() if value))


def script(name: str) -> str:
    """How a person runs a command of this folder."""
    return f"python {Path(__file__).resolve().parent / name}"


def count_local(config: SweepConfig) -> tuple[int, int]:
    """CPUs and GPUs of this machine, looked for where it matters how many trials share one."""
    if config.tune.trials_per_gpu != "auto":
        return 0, 0
    from hpo.cluster.submission import count_local_gpus

    return len(os.sched_getaffinity(0)), count_local_gpus()


def wait(directory: SweepDirectory, num_trials: int) -> int:
    from launch.follow import follow_on_slurm

    return follow_on_slurm(directory, num_trials)


def run_here(directory: SweepDirectory, config: SweepConfig) -> int:
    from hpo.cluster.submission import start_locally
    from launch.follow import follow

    say(f"directory {directory.root}")
    return follow(start_locally(directory), directory, config.tune.num_trials)
