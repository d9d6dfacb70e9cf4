"""Puts a job that has ended early back into the queue."""

from __future__ import annotations

import subprocess

_DEADLINE_S = 30


def requeue(job: str) -> str:
    """`scontrol requeue`; returns why SLURM refused, '' when it did not."""
    try:
        answer = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return " ".join(answer.stderr.split()) or f"exit {answer.returncode}" if answer.returncode else ""
