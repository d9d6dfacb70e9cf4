"""From what was said to all that SLURM is asked for: by the site, a sweep file, flags; defaults for the rest.

For launch/submit.py and for fits from Python alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.cluster.partitions import (
    check_fits,
    choose_partition,
    choose_partitions,
    fill_in,
    read_partitions,
)
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site
from hpo.cluster.terms import Terms, check_terms, head_request
from hpo.config import SweepConfig
from hpo.errors import UsageError


def combine(
    words: Mapping[str, Any], site: Site, flags: SlurmRequest | None = None, terms: Terms | None = None
) -> tuple[SlurmRequest, Terms]:
    """What is asked for: by sbatch's variables, above them by the site, by a sweep file's `slurm:`, by flags."""
    request = combine_requests(words, site)
    both = Terms.from_words(site.slurm).merged(Terms.from_words(words))
    return request.merged(flags) if flags else request, both.merged(terms) if terms else both


def combine_requests(words: Mapping[str, Any], site: Site) -> SlurmRequest:
    """What sbatch's variables ask for, above them the site, above it `words`."""
    weakest = SlurmRequest.from_environment().merged(SlurmRequest.from_words(site.slurm))
    return weakest.merged(SlurmRequest.from_words(words))


def complete(
    request: SlurmRequest, terms: Terms, site: Site, say: Callable[[str], None]
) -> tuple[SlurmRequest, SlurmRequest | None]:
    """The request with defaults for what was not said, and said aloud; with it that of a pool's head.

    Raises:
        UsageError: the terms do not fit, or the partition cannot give it. ClusterError: there is no SLURM here.
    """
    check_terms(terms, "slurm", request.gpus_per_node)
    site.check(request)
    if terms.pool and site.container:
        raise UsageError(
            f"--mode pool wants sbatch inside {site.activate['apptainer']}; leave it out, or the container."
        )
    partitions = read_partitions(",".join(filter(None, (request.partition, terms.head_partition))))
    # a pool's workers may share a host or wait for each other: their number has no limit
    partition = choose_partition(replace(request, nodes=None) if terms.pool else request, partitions)
    filled, notes = fill_in(request, partition)
    check_terms(terms, "slurm", filled.gpus_per_node)
    if request.partition is None:
        notes.insert(0, f"--partition {partition.name}")
    head = None
    if terms.pool:
        where = choose_partitions(terms.head_partition or filled.partition, partitions)[0]
        head = head_request(filled, terms, where)
        check_fits(head, where)
        notes += [f"--head-{key} {getattr(head, key)}" for key in ("partition", "time")
                  if getattr(terms, f"head_{key}") is None]  # fmt: skip
    if notes:
        say(f"by default: {' '.join(notes)}")
    return filled, head


def comment_of(config: SweepConfig, run: Path) -> str:
    """What SLURM's own tables say of the job of a sweep in `run`."""
    return f"slurmtune: {config.tune.num_trials} trials for {config.metric} of {config.data.name}, in {run}"
