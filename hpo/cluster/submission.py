"""Hands an attempt to SLURM or to this machine, through submitit, with slurm/sweep.sbatch as the batch script."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpo.cluster.attempt import DEVICES, Attempt
from hpo.cluster.request import SlurmRequest
from hpo.errors import ClusterError
from hpo.layout import SweepDirectory

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "slurm" / "sweep.sbatch"
_YEAR_MINUTES = 60 * 24 * 365  # submitit's local executor wants a limit
_FLAGS = {  # words in sbatch's complaint -> the flag that answers it
    "account": "--account",
    "qos": "--qos",
    "partition": "--partition",
    "time limit": "--time",
    "node count": "--nodes",
    "gres": "--gpus-per-node",
    "memory": "--mem",
    "cpu count": "--cpus-per-task",
    "feature": "--constraint",
}


def render_script(request: SlurmRequest, directory: SweepDirectory, job_name: str) -> str:
    """The batch script: the template with its #SBATCH lines and settings replaced. A pure function of its arguments."""
    folder = directory.submitit
    lines = TEMPLATE.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    directives = [f"#SBATCH {line}" for line in request.directives(job_name, f"{folder}/%j_0_log.out")]
    settings = {
        "ROOT": str(ROOT),
        "PYTHON": sys.executable,
        "RUN": str(directory.root),
        "COMMAND": shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]),
        "LOG": f"{folder}/%j_%t_log.out",
        "SUBMITIT_EXECUTOR": "slurm",
    }
    rendered: list[str] = []
    for i, line in enumerate(lines):
        if i == first:
            rendered += directives
        if not line.startswith("#SBATCH"):
            rendered.append(line)
        if line.startswith("# settings:"):
            rendered += [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
            rendered.append("export SUBMITIT_EXECUTOR")
    return "\n".join(rendered) + "\n"


class _TemplateExecutor(submitit.SlurmExecutor):
    """submitit's executor with our template for its script."""

    def __init__(self, request: SlurmRequest, directory: SweepDirectory, job_name: str) -> None:
        super().__init__(folder=directory.submitit, max_num_timeout=10**6)  # attempts are counted by us
        self._script = render_script(request, directory, job_name)
        self.update_parameters(nodes=request.nodes or 1, ntasks_per_node=1)

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script


def submit_to_slurm(request: SlurmRequest, directory: SweepDirectory, job_name: str) -> str:
    """Submits one attempt and returns the job's id.

    Raises:
        ClusterError: sbatch refused; its own reason, and the flag that answers it where we know one.
    """
    executor = _TemplateExecutor(request, directory, job_name)
    try:
        job: Any = executor.submit(Attempt(str(directory.root)))
    except (FailedJobError, FailedSubmissionError) as error:
        raise ClusterError(explain_refusal(str(error))) from None
    return str(job.job_id)


def explain_refusal(message: str) -> str:
    """sbatch's reason on one line, and which flag to add or change."""
    reasons = re.findall(r"sbatch: error: (?:Batch job submission failed: )?(.*)", message)
    reason = (
        "; ".join(dict.fromkeys(part.strip() for part in reasons if part.strip())) or " ".join(message.split())[:300]
    )
    flags = [flag for words, flag in _FLAGS.items() if words in reason.lower()]
    remedy = f" Add or change {' and '.join(flags)}." if flags else ""
    return f"sbatch refused the job: {reason}.{remedy}"


def start_locally(directory: SweepDirectory) -> submitit.LocalJob[Any]:
    """Starts one attempt on this machine; the job's process is its controller.

    It sees the GPUs of CUDA_VISIBLE_DEVICES where that is set, else all.
    """
    executor = submitit.LocalExecutor(folder=directory.submitit)
    executor.update_parameters(timeout_min=_YEAR_MINUTES, gpus_per_node=count_local_gpus(), stderr_to_stdout=True)
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # submitit numbers from 0: the attempt puts a person's choice back
        os.environ[DEVICES] = os.environ["CUDA_VISIBLE_DEVICES"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is ours to pass on, not the children's to die of
    try:
        return executor.submit(Attempt(str(directory.root)))  # type: ignore[return-value]
    finally:
        signal.signal(signal.SIGINT, before)


def count_local_gpus() -> int:
    """GPUs of this machine by nvidia-smi; 0 without it."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
