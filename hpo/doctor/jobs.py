"""A job of one minute on one host or two, as the sweep's own would be asked for; and what its hosts say."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpo.cluster.commands import ask_slurm, run_sbatch
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site
from hpo.errors import ClusterError

_ROOT = Path(__file__).resolve().parents[2]
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "PREEMPTED")
_DEADLINE_S = 30
_SETTLE_S = 5  # files of a host that has just ended may come later than SLURM's word
_SCRIPT = """#!/bin/bash
{directives}
set -euo pipefail
ROOT={root}; RUN={folder}; PYTHON={python}
{container}
{site}
. "$ROOT/slurm/job.sh"
run_step "$(python_command -m hpo.doctor.node "$RUN")"
exit "$status"
"""


@dataclass(frozen=True)
class Answer:
    """What became of the job. `hosts`: by rank what hpo.doctor.node wrote; `log`: None where there is none."""

    job: str
    state: str
    reason: str  # SLURM's, of a job that did not start
    log: str | None
    hosts: list[dict[str, Any]] = field(default_factory=list)


def ask_hosts(request: SlurmRequest, site: Site, runs: Path, nodes: int, wait_s: float) -> Answer:
    """Runs the job and waits for it; one that has not started after `wait_s` seconds is cancelled.

    Raises:
        ClusterError: sbatch refused, with the flag that answers it.
    """
    folder = runs / f".doctor-{time.strftime('%H%M%S')}-{nodes}"
    folder.mkdir(mode=0o700, parents=True)
    small = replace(request.again(), nodes=nodes, time="2", comment="slurmtune's doctor")
    script = render_probe(small, site, folder)
    done = run_sbatch(["--parsable"], script)
    if done.returncode:
        from hpo.cluster.submission import explain_refusal  # submitit: what the environment may lack

        raise ClusterError(explain_refusal(done.stderr))
    job = done.stdout.strip().partition(";")[0]
    try:
        state, reason = _await_end(job, wait_s)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it ends after its two minutes in any case
            ask_slurm(["scancel", job], _DEADLINE_S)
    return _read(folder, job, state, reason, nodes)


def render_probe(request: SlurmRequest, site: Site, folder: Path) -> str:
    """The batch script: the sweep's own words and site, another command."""
    container = f"CONTAINER={shlex.quote(site.container)}" if site.container else ""
    directives = request.directives("slurmtune-doctor", f"{folder}/log.txt")
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in directives if line != "--requeue"),
        root=shlex.quote(str(_ROOT)),
        folder=shlex.quote(str(folder)),
        python=shlex.quote(site.python or sys.executable),
        container=container,
        site="\n".join(site.lines()),
    )


def _await_end(job: str, wait_s: float) -> tuple[str, str]:
    """The state in which it ended, or PENDING and SLURM's reason when it did not start in time."""
    end, running = time.monotonic() + wait_s, False
    while True:
        words = _words(job)
        state = words.get("JobState", "")
        if state in _ENDED:
            return state, ""
        if state == "RUNNING" and not running:  # from now on it has its own two minutes
            end, running = time.monotonic() + 240, True
        if time.monotonic() > end:
            return state, words.get("Reason", "")
        time.sleep(0.5)


def _words(job: str) -> dict[str, str]:
    try:
        answer = ask_slurm(["scontrol", "show", "job", job, "-o"], _DEADLINE_S)
    except subprocess.TimeoutExpired:
        return {}
    return dict(re.findall(r"(\w+)=(\S*)", answer.stdout))


def _read(folder: Path, job: str, state: str, reason: str, nodes: int) -> Answer:
    end = time.monotonic() + _SETTLE_S
    while len(found := sorted(folder.glob("host-*.json"))) < nodes and state in _ENDED and time.monotonic() < end:
        time.sleep(0.2)
    log = folder / "log.txt"
    hosts = [json.loads(path.read_text()) for path in found]
    text = log.read_text(errors="replace") if log.exists() else None
    answer = Answer(job, state, reason, text, hosts)
    if state == "COMPLETED" and len(hosts) == nodes:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return answer
