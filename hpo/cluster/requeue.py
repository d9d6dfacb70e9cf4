"""Puts a job that ran out of walltime back into the queue, as long as its attempts get anywhere."""

from __future__ import annotations

import subprocess
import sys

from hpo.layout import SweepDirectory
from hpo.records import SweepState, read_events

_IDLE_ATTEMPTS = 3  # in a row without one new epoch: something is wrong that another attempt will not mend
_DEADLINE_S = 30


def requeue_if_unfinished(directory: SweepDirectory, job: str) -> None:
    """`scontrol requeue` for `job`, unless the sweep has ended or the last attempts brought nothing."""
    events = read_events(directory.journal)
    state = SweepState(events)
    if not job or state.ended:
        return
    reports = [0]
    for event in events:
        if event["type"] == "attempt_started":
            reports.append(0)
        reports[-1] += event["type"] == "reported"
    if len(reports) > _IDLE_ATTEMPTS and not any(reports[-_IDLE_ATTEMPTS:]):
        sys.stderr.write(f"slurmtune: not queued again: {_IDLE_ATTEMPTS} attempts brought no new epoch.\n")
        return
    answer = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    if answer.returncode:
        why = " ".join(answer.stderr.split())
        sys.stderr.write(
            f"slurmtune: SLURM refused to requeue ({why}); go on with submit.py --resume {directory.root}\n"
        )
    else:
        sys.stderr.write(f"slurmtune: job {job} is queued again and will go on from here.\n")
