"""Writes a sweep's directory, whole, before anything is submitted: what a job reads is there or there is no job."""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.layout import SweepDirectory, sync_folder, write_bytes, write_json, write_text

_PACKAGES = ("torch", "timm", "accelerate", "ray", "optuna", "submitit", "h5py", "numpy")


def name_run(runs: Path, name: str) -> Path:
    """A new directory's path: runs/<sweep>-<date>-<short id>."""
    return runs / f"{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(2)}"


def stage_sweep(
    config: SweepConfig,
    run: Path,
    cluster: str,
    request: dict[str, Any],
    terms: dict[str, Any] | None = None,
    site: dict[str, Any] | None = None,
) -> SweepDirectory:
    """Makes `run` with all that an attempt needs. Built beside its place and renamed, so half a directory never shows.

    `request`: what its jobs ask SLURM for (hpo.cluster.request); `terms`: mode and limits (hpo.cluster.terms);
    `site`: what its site file says (hpo.cluster.sites).

    Raises:
        UsageError: `run` exists, or its parent cannot be written.
    """
    if run.exists():
        raise UsageError(f"{run} exists already; name a new directory, or go on with that sweep by --resume {run}.")
    building = run.parent / f".{run.name}.new"
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(
            f"{run.parent} cannot be written ({error.strerror}); choose another place with --runs-dir."
        ) from None
    try:
        _fill(
            SweepDirectory(building),
            config,
            {"cluster": cluster, "request": request, "terms": terms or {}, "site": site or {}},
        )
        building.rename(run)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_folder(run.parent)
    return SweepDirectory(run)


def _fill(directory: SweepDirectory, config: SweepConfig, job: dict[str, Any]) -> None:
    for folder in ("secrets", "submitit", "jobs", "attempts", "trials"):
        (directory.root / folder).mkdir(mode=0o700)
    write_text(directory.sweep_file, config.source)
    write_json(directory.resolved, {**config.to_json(), **job})
    write_json(directory.provenance, provenance())
    write_text(directory.token, secrets.token_hex(32), mode=0o600)
    for name, content in config.attachments.items():
        write_bytes(directory.secrets / name, content, mode=0o600)
    directory.journal.touch(mode=0o600)


def provenance() -> dict[str, Any]:
    """Who submitted what with which code, as far as it can be known here."""
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with '+changes' when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+changes"]
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=environ)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
