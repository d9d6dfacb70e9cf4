"""Puts a job that has ended early, or has lost its batch script, back into the queue."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from hpo.cluster.commands import ask_slurm

_DEADLINE_S = 30
_WISH = "SLURMTUNE_REQUEUE_WISH"  # a file that the batch script looks for, outside the container that the job runs in


def requeue(job: str) -> str:
    """`scontrol requeue`; returns why SLURM refused, '' when it did not."""
    if _WISH in os.environ and not shutil.which("scontrol"):
        Path(os.environ[_WISH]).touch()
        return ""
    try:
        answer = ask_slurm(["scontrol", "requeue", job], _DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return " ".join(answer.stderr.split()) or f"exit {answer.returncode}" if answer.returncode else ""


def runs(job: str, restarts: int) -> bool:
    """Whether SLURM runs the job, and has queued it again `restarts` times so far. Without an answer it does not."""
    try:
        answer = ask_slurm(["scontrol", "show", "job", job, "--oneliner"], _DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    words = answer.stdout.split()
    return "JobState=RUNNING" in words and f"Restarts={restarts}" in words
