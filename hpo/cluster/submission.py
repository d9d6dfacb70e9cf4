"""Hands an attempt to SLURM or to this machine, through submitit, with the templates of slurm/ as batch scripts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpo.cluster.attempt import DEVICES, FOREGROUND, Attempt, Worker
from hpo.cluster.commands import clean_environment
from hpo.cluster.jobs import cancel_jobs, record_job
from hpo.cluster.processes import identify
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site
from hpo.cluster.terms import Terms
from hpo.config import SweepConfig
from hpo.errors import ClusterError
from hpo.layout import SweepDirectory, read_json
from hpo.staging import stage_sweep

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = {  # role of a job -> its template in slurm/
    "attempt": "gang.sbatch",
    "head": "pool_head.sbatch",
    "worker": "pool_worker.sbatch",
}
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
    "node name": "--nodelist or --exclude",
    "node configuration": "--gpus-per-node, --mem, --cpus-per-task or --constraint",
}


def render_script(
    request: SlurmRequest, directory: SweepDirectory, job_name: str, role: str = "attempt", site: Site | None = None
) -> str:
    """The batch script: the role's template with its #SBATCH lines, its settings and the site's lines put in. A pure
    function of its arguments and of the variables that the site names."""
    site, folder = site or Site(), directory.submitit
    python = site.python or sys.executable
    lines = template(request, role, site).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    directives = [f"#SBATCH {line}" for line in request.directives(job_name, f"{folder}/%j_0_log.out")]
    settings = {
        "ROOT": str(ROOT),
        "PYTHON": python,
        "RUN": str(directory.root),
        "COMMAND": shlex.join([python, "-u", "-m", "submitit.core._submit", str(folder)]),
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
            if site.container:
                rendered.append(f"CONTAINER={_for_eval(site.container)}")
        elif line.startswith("# site:"):
            rendered += site.lines()
    return "\n".join(rendered) + "\n"


def _for_eval(command: str) -> str:
    """A command as one word of shell, its variables left for a later eval."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", command) + '"'


def template(request: SlurmRequest, role: str, site: Site) -> Path:
    """The template in slurm/ of such a job."""
    name = TEMPLATES[role]
    if role == "attempt" and site.container:
        name = "apptainer.sbatch"
    elif role == "attempt" and request.nodes == 1:
        name = "single.sbatch"
    return ROOT / "slurm" / name


class _TemplateExecutor(submitit.SlurmExecutor):
    """submitit's executor with our template for its script."""

    def __init__(
        self, request: SlurmRequest, directory: SweepDirectory, job_name: str, role: str, site: Site | None
    ) -> None:
        super().__init__(folder=directory.submitit, max_num_timeout=10**6)  # attempts are counted by us
        site = site or Site.from_json(read_json(directory.resolved).get("site"))
        self._script = render_script(request, directory, job_name, role, site)
        self.update_parameters(nodes=request.nodes or 1, ntasks_per_node=1)

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        unset = [f"--unset={name}" for name in os.environ.keys() - clean_environment().keys()]
        return ["env", *sorted(unset), *super()._make_submission_command(submission_file_path)]


def submit_to_slurm(
    request: SlurmRequest,
    directory: SweepDirectory,
    job_name: str,
    role: str = "attempt",
    replaces: str = "",
    site: Site | None = None,
) -> str:
    """Submits one job of a role (see TEMPLATES), writes down that it is the sweep's, and returns its id.

    `replaces`: the worker job in whose place it comes; `site`: another one than the sweep's.

    Raises:
        ClusterError: sbatch refused; its own reason, and the flag that answers it where we know one.
    """
    if shutil.which("srun") is None:  # submitit asks for it, in a RuntimeError
        raise ClusterError("SLURM's srun is not on this machine's PATH; run this where sbatch and srun are.")
    executor = _TemplateExecutor(request, directory, job_name, role, site)
    run = Worker(str(directory.root)) if role == "worker" else Attempt(str(directory.root))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's complaint too; ours says it
            job: Any = executor.submit(run)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ClusterError(explain_refusal(str(error))) from None
    record_job(directory, str(job.job_id), "worker" if role == "worker" else "attempt", request, replaces)
    return str(job.job_id)


def submit_sweep(
    config: SweepConfig,
    run: Path,
    request: SlurmRequest,
    head: SlurmRequest | None,
    terms: Terms,
    site: Site,
    before: Callable[[SweepDirectory], None] = lambda directory: None,
) -> tuple[SweepDirectory, list[str]]:
    """A new sweep: writes its directory `run` and submits its first attempt; returns it, and the jobs as
    `submit_attempt`. `before`: what else is to be in the directory when a job starts.

    Raises:
        UsageError: `run` cannot be written. ClusterError: sbatch refused; nothing is left, also not of `run`.
    """
    directory = stage_sweep(config, run, "slurm", asdict(request), terms.to_json(), site.to_json())
    try:
        before(directory)
        return directory, submit_attempt(request, head, directory, config.name)
    except ClusterError:  # nothing of it has run, and the next try makes its own
        shutil.rmtree(directory.root)
        raise


def submit_attempt(
    request: SlurmRequest, head: SlurmRequest | None, directory: SweepDirectory, job_name: str
) -> list[str]:
    """Submits a gang, or with a `head` a pool; returns the ids of its jobs, the one that is to be waited for first.

    Raises:
        ClusterError: sbatch refused; nothing of it is left in the queue.
    """
    if head is None:
        return [submit_to_slurm(request, directory, job_name)]
    return submit_pool(request, head, directory, job_name)


def submit_pool(request: SlurmRequest, head: SlurmRequest, directory: SweepDirectory, job_name: str) -> list[str]:
    """Submits a pool, its head first and then `request.nodes` workers; returns the jobs' ids in this order.

    Raises:
        ClusterError: sbatch refused one; those before it are cancelled.
    """
    jobs: list[str] = []
    try:
        jobs.append(submit_to_slurm(head, directory, job_name, "head"))
        for _ in range(1 if request.nodes is None else request.nodes):
            jobs.append(submit_to_slurm(replace(request, nodes=1), directory, job_name, "worker"))
    except ClusterError:
        cancel_jobs(jobs)
        raise
    return jobs


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

    It ends with this process, however that ends. It sees the GPUs of CUDA_VISIBLE_DEVICES where that is set, else all.
    """
    executor = submitit.LocalExecutor(folder=directory.submitit)
    executor.update_parameters(timeout_min=_YEAR_MINUTES, gpus_per_node=count_local_gpus(), stderr_to_stdout=True)
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # submitit numbers from 0: the attempt puts a person's choice back
        os.environ[DEVICES] = os.environ["CUDA_VISIBLE_DEVICES"]
    os.environ[FOREGROUND] = identify(os.getpid())
    try:
        with _deaf_to_ctrl_c():
            return executor.submit(Attempt(str(directory.root)))  # type: ignore[return-value]
    finally:
        del os.environ[FOREGROUND]


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile ignore SIGINT: Ctrl-C is ours to pass on. Only the main thread may say so; of another
    one the attempt hears Ctrl-C itself, and stops in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def count_local_gpus() -> int:
    """GPUs of this machine by nvidia-smi; 0 without it."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
