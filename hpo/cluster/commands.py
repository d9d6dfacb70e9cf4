"""SLURM's commands, called so that no variable of a person's or of a job's changes what they do or print.

Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

from hpo.errors import ClusterError

OUTSIDE = "SLURMTUNE_OUTSIDE"  # what stood in variables that hpo.cluster.raynode sets: JSON, null for nothing
_SBATCH_S = 60
# SQUEUE_STATES=all, SCANCEL_INTERACTIVE=1
_PRINTS = ("SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_", "SLURM_TIME_FORMAT")
_OF_A_JOB = ("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_", "RAY_", "SLURMTUNE_ATTEMPT", "SLURMTUNE_STARTED",
             OUTSIDE)  # fmt: skip
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_CLUSTERS", "SBATCH_WCKEY")  # which SLURM, and for whom


def ask_slurm(command: Sequence[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
    """Runs squeue, sinfo, scancel or scontrol.

    Raises:
        OSError: there is no such command. subprocess.TimeoutExpired.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_PRINTS)}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_s,
        check=False,
        env=environ,
    )


def run_sbatch(arguments: Sequence[str], script: str | None = None) -> subprocess.CompletedProcess[str]:
    """sbatch, of a script on its standard input or of what `arguments` name.

    Raises:
        ClusterError: it gives no answer.
    """
    try:
        return subprocess.run(
            ["sbatch", *arguments],
            input=script or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SBATCH_S,
            check=False,
            env=clean_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"sbatch gives no answer ({error}); SLURM may be down, try again later.") from None


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for sbatch: without what a job's own SLURM, submitit, Ray and attempt have put there, which the
    new job would inherit (an interactive job's memory and CPU mask, an array's number), and without sbatch's own
    variables, which win over the script; hpo.cluster.request reads those before."""
    outside = json.loads(environ.get(OUTSIDE, "{}"))
    return {
        name: value
        for name, value in {**environ, **outside}.items()
        if value is not None and (name in _KEPT or not name.startswith(_OF_A_JOB))
    }
