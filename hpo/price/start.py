"""When SLURM would start a job, by its own word: sbatch --test-only, which submits nothing."""

from __future__ import annotations

import re
import subprocess
import time

from hpo.cluster.request import SlurmRequest

_DEADLINE_S = 20


def earliest_start(request: SlurmRequest) -> tuple[float | None, str]:
    """Unix seconds at which a job of `request` would start if nothing changes, or None and SLURM's reason."""
    command = ["sbatch", "--test-only", "--ntasks-per-node=1", *request.flags(), "--wrap=true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"sbatch --test-only gave no answer ({error})"
    return parse_start(done.stderr)


def parse_start(text: str) -> tuple[float | None, str]:
    """'sbatch: Job 7 to start at 2026-11-24T19:22:02 using 1 processors ...' as Unix seconds; else the reason."""
    match = re.search(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    if match:
        return time.mktime(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")), ""
    return None, " ".join(text.replace("allocation failure:", "").split()) or "sbatch --test-only says nothing"
