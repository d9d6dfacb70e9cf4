"""Can the sweep's directory be made where it is to be, and is there room for what trials will write?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hpo.check.dataset import lies_on_one_host
from hpo.check.findings import Findings
from hpo.config import SweepConfig
from hpo.errors import UsageError

_LOGS = 200_000  # bytes a trial: log, events, progress
_NUMBERS = 4  # bytes of a weight
_STATES = 6  # times the weights: the two last checkpoints, each with two moments of the optimiser
_FILES = 60  # files a trial, checkpoints with it


def check_place(run: Path, findings: Findings, on_slurm: bool) -> None:
    """The directory can be made, and seen by the hosts of a job."""
    place = _existing(run.parent)
    with findings.on("directory"):
        if run.exists():
            raise UsageError(f"{run} exists already; name a new directory, or go on with that sweep by --resume {run}.")
        if not place.is_dir():
            raise UsageError(f"{run.parent} cannot be made, {place} is a file; choose another place with --runs-dir.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"{run.parent} cannot be written; choose another place with --runs-dir.")
    if on_slurm and lies_on_one_host(run):
        findings.warn("directory", f"{run.parent} lies where each host has files of its own: compute nodes will not "
                                   "see it; name shared storage with --runs-dir or SLURMTUNE_RUNS.")  # fmt: skip


def check_room(config: SweepConfig, run: Path, findings: Findings, parameters: int | None) -> None:
    """`parameters`: of the largest model, None where it is not known. The directory can be made, see check_place."""
    place = _existing(run.parent)
    with findings.on("directory"):
        needed = needed_bytes(config, parameters)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UsageError(
                f"{place} has {free / 1e9:.3g} GB free, and {config.tune.num_trials} trials may write "
                f"{needed / 1e9:.3g} GB; free some, choose another --runs-dir, or set checkpoint_budget_gb."
            )
        files, inodes = _FILES * config.tune.num_trials, os.statvfs(place)
        if inodes.f_files and inodes.f_favail < files:
            raise UsageError(f"{place} has room for {inodes.f_favail} more files, and the sweep may write {files}; "
                             "choose another --runs-dir.")  # fmt: skip
        findings.ok("directory", f"{run.parent} can be written, {free / 1e9:.4g} GB free, at most {needed / 1e9:.3g} "
                                 "GB needed")  # fmt: skip


def needed_bytes(config: SweepConfig, parameters: int | None) -> int:
    """At most what the sweep writes: the best epochs' weights and the last state of each trial, or the budget."""
    tune = config.tune
    logs = tune.num_trials * _LOGS
    if tune.checkpoint_budget_gb is not None:
        return int(tune.checkpoint_budget_gb * 1e9) + logs
    kept = min(tune.num_to_keep, config.max_epochs)
    return tune.num_trials * (parameters or 0) * _NUMBERS * (kept + _STATES) + logs


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
