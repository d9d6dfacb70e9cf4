"""The table of docs/reliability.md of what befell jobs and hosts on the real SLURM, from results/slurm.jsonl.

A line there is what one test noted (`measure` of tests/cluster/conftest.py); `passed`: whether that test did. Seconds
are those of the last day on which a fault was tried: the median, and from the least to the most.
"""

from __future__ import annotations

import statistics
import time

BEGIN, END = "<!-- table of tests/faults/measured_slurm.py -->", "<!-- end of that table -->"
AN_EPOCH, NO_EPOCH, UNDISTURBED = "the epoch it was in", "no whole epoch", "nothing, no trial was disturbed"
CRASH, CABLE, SAVED = "every process of the host killed at once", "its cable taken away", "until all was saved"
FAULTS = {  # fault of a line -> fault, how it was injected, what was lost, what the seconds are
    "host crashed": ("another host crashes", CRASH, NO_EPOCH, "until its trial ran again"),
    "network down": ("another host's network is down", CABLE, NO_EPOCH, "until its trial ran again"),
    "raylet killed": ("Ray dies on another host", "SIGKILL to the raylet", NO_EPOCH, "until its trial ran again"),
    "slurmd killed": ("slurmd dies on another host", "SIGKILL", UNDISTURBED, ""),
    "drained": ("another host is drained", "`scontrol update state=drain`", UNDISTURBED, ""),
    "head's host: crash: attempt": ("the host with a gang's head crashes", CRASH, AN_EPOCH, "until the next attempt"),
    "head's host: crash": ("the same", "", "", "until a trial ran again"),
    "head's host: reboot": (
        "the host with a gang's head crashes and is back at once", CRASH, AN_EPOCH, "until the next attempt",
    ),
    "other's host: reboot": ("another host crashes and is back at once", CRASH, AN_EPOCH, "until the next attempt"),
    "head's host: link-down: attempt": ("the network of that host is down", CABLE, AN_EPOCH, "until the next attempt"),
    "head's host: link-down": ("the same", "", "", "until a trial ran again"),
    "head's host: crash, requeue refused": (
        "the host with a gang's head crashes, and SLURM refuses to requeue",
        "the same with `scontrol update requeue=0`, then `--resume`",
        AN_EPOCH,
        "until the job was cancelled",
    ),
    "head's host: crash before there is a head": (
        "the host of rank 0 crashes as the job starts", CRASH, "nothing", "until the next attempt",
    ),
    "supervisor killed": (
        "the supervisor of rank 0 is killed", "SIGKILL", AN_EPOCH, "until the next attempt",
    ),
    "pool: the head's host crashed: attempt": (
        "the host with a pool's head crashes", CRASH, AN_EPOCH, "until the next attempt",
    ),
    "pool: the head's host crashed": ("the same", "", "", "until a trial ran again"),
    "preemption, requeued": (
        "preemption, SIGTERM alone, the site requeues", "a job of higher priority", AN_EPOCH, SAVED,
    ),
    "preemption, cancelled": (
        "preemption, SIGTERM alone, the site cancels", "the same with `PreemptMode=CANCEL`, then `--resume`", AN_EPOCH,
        SAVED,
    ),
    "USR2, requeued": (
        "USR2, then once more when SLURM refuses to requeue",
        "`scancel --signal=USR2`, `scontrol update requeue=0`, then `--resume`; exit code 75",
        AN_EPOCH,
        SAVED,
    ),
    "scancel": (
        "`scancel`", "then `--resume`; exit code of `submit.py --wait` and of the batch step: 75", AN_EPOCH, SAVED,
    ),
    "submit.py --stop": ("`submit.py --stop`", "", AN_EPOCH, SAVED),
    "walltime": ("a sweep that needs four jobs of 2 minutes", "it took five", AN_EPOCH, "for the whole sweep"),
    "no progress": (
        "no attempt gets anywhere", "trials that hang; three attempts, then `--max-attempts 4`", "nothing",
        "until it gave up",
    ),
    "GPU-hours": ("`--max-gpu-hours` used up", "over two jobs", "nothing", ""),
    "pool: a worker preempted": (
        "a pool's worker is preempted, twice, half of the workers never start", "jobs of higher priority", AN_EPOCH,
        "until it joined again",
    ),
    "pool: a worker cancelled and replaced": (
        "a pool's worker is cancelled", "`scancel`", AN_EPOCH, "until another was submitted",
    ),
    "a worker added to one host": (
        "`submit.py --add-workers` to a sweep on one host", "its Ray starts again, listening to the network", AN_EPOCH,
        "until it had joined",
    ),
}  # fmt: skip
READY = "none: {} hosts ready"


def slurm_table(rows):
    """Markdown, of the lines of slurm.jsonl."""
    lines = ["| fault | how it was injected | survived of tried | lost | seconds |", "|---|---|---|---|---|"]
    for fault, (what, how, lost, until) in FAULTS.items():
        tried = [row for row in rows if row["fault"] == fault]
        if tried:
            survived = sum(row.get("passed", True) for row in tried)
            lines.append(f"| {what} | {how} | {survived} of {len(tried)} | {lost} | {_seconds(tried, until)} |")
    ready = [f"{_seconds([row for row in rows if row['fault'] == READY.format(n)], '')} s on {n}" for n in (1, 2, 3)]
    return "\n".join([*lines, "", f"From the job's start to Ray ready: {', '.join(ready)} hosts (wanted: 5, 8, 8)."])


def _seconds(rows, until):
    day = max((_day(row) for row in rows), default="")
    values = [row["seconds"] for row in rows if _day(row) == day and row["seconds"] is not None]
    if not values:
        return ""
    span = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{statistics.median(values):.3g}{span} {until}".strip()


def _day(row):
    return time.strftime("%Y-%m-%d", time.gmtime(row["t"]))
