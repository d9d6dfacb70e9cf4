"""Can sweeps and weights be written where they are to go?"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hpo.check.findings import Findings
from hpo.errors import UsageError

TOPIC = "storage"
_LEAST_BYTES, _LEAST_FILES = 2 * 10**9, 2000  # of a small sweep


def check_storage(runs: Path, weights: Path, findings: Findings) -> None:
    for place, use, remedy in (
        (runs, "sweeps", "choose another place with --runs-dir, $SLURMTUNE_RUNS or `runs:` of the site file"),
        (weights, "weights", "set HF_HOME or `weights:` of the site file to another place"),
    ):
        with findings.on(TOPIC):
            free = _check_place(place, use, remedy)
            findings.ok(TOPIC, f"{place} takes {use}: {free / 1e9:.3g} GB free")


def _check_place(place: Path, use: str, remedy: str) -> int:
    """Bytes that are free where `place` is or would be."""
    there = place
    while not there.exists():
        there = there.parent
    try:
        state = os.statvfs(there)
    except OSError as error:
        raise UsageError(f"{place} ({use}) cannot be looked at ({error.strerror}): {remedy}.") from None
    free = state.f_bavail * state.f_frsize
    if state.f_files and state.f_favail < _LEAST_FILES:
        raise UsageError(f"{place} ({use}) has room for only {state.f_favail} more files: remove some, or {remedy}.")
    if free < _LEAST_BYTES:
        raise UsageError(f"{place} ({use}) has only {free / 1e9:.2g} GB free: make room, or {remedy}.")
    probe = there / f".slurmtune-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{place} ({use}) cannot be written ({error.strerror}): {remedy}.") from None
    return free
