"""How submit.py starts an attempt: on SLURM as a gang or a pool, or on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpo.cluster.request import SlurmRequest, check_fits, choose_partition, fill_in, read_partitions
from hpo.cluster.sites import Site
from hpo.cluster.terms import Terms, head_request
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.layout import SweepDirectory
from launch.terminal import say


def combine(config: SweepConfig, site: Site, flags: SlurmRequest, terms: Terms) -> tuple[SlurmRequest, Terms]:
    """What is asked for: by the site, above it by the sweep file, above both by flags."""
    request = SlurmRequest.from_words(site.slurm).merged(SlurmRequest.from_words(config.slurm)).merged(flags)
    return request, Terms.from_words(site.slurm).merged(Terms.from_words(config.slurm)).merged(terms)


def complete(request: SlurmRequest, terms: Terms, site: Site) -> tuple[SlurmRequest, SlurmRequest | None]:
    """The request with defaults for what was not said, and said aloud; with it that of a pool's head.

    Raises:
        UsageError: the partition cannot give it. ClusterError: there is no SLURM here.
    """
    site.check(request)
    if terms.pool and site.container:
        raise UsageError(
            f"--mode pool wants sbatch inside {site.activate['apptainer']}; leave it out, or the container."
        )
    partitions = read_partitions()
    partition = choose_partition(request.partition, partitions)
    # a pool's workers may share a host or wait for each other: their number has no limit
    check_fits(replace(request, nodes=None) if terms.pool else request, partition)
    filled, notes = fill_in(request, partition)
    if request.partition is None:
        notes.insert(0, f"--partition {partition.name}")
    head = None
    if terms.pool:
        where = choose_partition(terms.head_partition or filled.partition, partitions)
        head = head_request(filled, terms, where)
        check_fits(head, where)
        notes += [f"--head-{key} {getattr(head, key)}" for key in ("partition", "time")
                  if getattr(terms, f"head_{key}") is None]  # fmt: skip
    if notes:
        say(f"by default: {' '.join(notes)}")
    return filled, head


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
    from hpo.cluster.submission import submit_pool, submit_to_slurm

    workers: list[str] = []
    if head is None:
        job = submit_to_slurm(request, directory, name)
    else:
        job, *workers = submit_pool(request, head, directory, name)
    about: dict[str, Any] = {"job": job, "directory": str(directory.root), "request": asdict(request)}
    if head is not None:
        about |= {"workers": workers, "head": asdict(head)}
    print_jobs(directory, about, as_json)
    return 0


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


def run_here(directory: SweepDirectory, config: SweepConfig) -> int:
    from hpo.cluster.submission import start_locally
    from launch.follow import follow

    say(f"directory {directory.root}")
    return follow(start_locally(directory), directory, config.tune.num_trials)
