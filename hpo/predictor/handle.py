"""A fit at work, on this machine or on SLURM: started here, waited for here or from any other Python process."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.cluster.commands import ask_slurm
from hpo.cluster.completion import combine, complete
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, choose_site
from hpo.cluster.terms import Terms
from hpo.config import SLURM_KEYS, TERM_KEYS, SweepConfig
from hpo.errors import ClusterError, UsageError
from hpo.layout import SweepDirectory, absolute, read_json, write_json
from hpo.predictor.record import PredictorFiles
from hpo.predictor.voice import Voice, voice
from hpo.records import SweepState, read_events
from hpo.results.watch import Watch
from hpo.tuneconfig import check_names

if TYPE_CHECKING:
    from hpo.predictor.predictor import MultiModalPredictor

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S, _SLURM_POLL_S = 0.2, 5.0
_DRAIN_S = 60.0  # from asking a fit to stop until it is killed
_COMMAND_S = 30
_SECOND_LOOK_S = 2.0


@dataclass(frozen=True)
class LocalJob:
    """A process of this machine, known again by its start time: numbers are given out anew."""

    pid: int
    started: str
    host: str
    log: str
    child: Any = None  # the Popen, where it is ours: only its parent can take its exit code

    def alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        if self.host != socket.gethostname():
            raise UsageError(f"this fit was started on {self.host}; wait for it there, or load it when it is over.")
        return _start_time(self.pid) == self.started != ""

    def stop(self, hard: bool = False) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL if hard else signal.SIGTERM)


class SlurmJob:
    """A job by its id."""

    def __init__(self, job: str, log: str) -> None:
        self.job, self.log = job, log
        self._asked, self._alive = -math.inf, True

    def alive(self) -> bool:
        """Whether the queue has it, pending, running or about to be requeued. Asked at most each few seconds."""
        if time.monotonic() - self._asked > _SLURM_POLL_S:
            self._alive = bool(self.state()) or self._seen_again()
            self._asked = time.monotonic()
        return self._alive

    def _seen_again(self) -> bool:
        """A second look: a job that is put back into the queue may be missing from it for a moment."""
        time.sleep(_SECOND_LOOK_S)
        return bool(self.state())

    def state(self) -> str:
        """SLURM's word, '' when the queue has it no more."""
        answer = _run("squeue", "-h", "-j", self.job, "-o", "%T")
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return "UNKNOWN"  # the controller is busy: the job is not gone for that
        return answer.stdout.strip()

    def stop(self, hard: bool = False) -> None:
        _run("scancel", *(["--signal=KILL"] if hard else []), self.job)


def start(directory: SweepDirectory, searched: bool, say: Voice) -> LocalJob:
    """Starts the fit in `directory` on this machine: a search with Ray, one trial without."""
    from hpo.cluster.submission import start_locally

    say(f"directory {directory.root}")
    if searched:
        job = start_locally(directory)
        return _note(directory, job._process, str(job.paths.stdout))
    log = directory.submitit / "single.log"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "hpo.predictor.single", str(directory.root)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environ, start_new_session=True,
        )  # fmt: skip
    return _note(directory, child, str(log))


@dataclass(frozen=True)
class Wanted:
    """What a fit asks SLURM for, at this site: a gang, or with a `head` a pool, on these terms."""

    site: Site
    request: SlurmRequest
    head: SlurmRequest | None
    terms: Terms

    @property
    def one_job(self) -> SlurmRequest:
        """What one of its jobs asks for: of a pool each is of one host."""
        return replace(self.request, nodes=1) if self.head else self.request

    def with_defaults(self, comment: str, time_limit: float | None) -> Wanted:
        comment = self.request.comment or comment
        head = replace(self.head, comment=comment) if self.head else None
        request, terms = replace(self.request, comment=comment), replace(self.terms, time_limit=time_limit)
        return replace(self, request=request, head=head, terms=terms)


def wanted_of(words: dict[str, Any] | None, say: Voice) -> Wanted:
    """From the words of a sweep file's `slurm:`, and `site`; completed and checked as launch/submit.py does.

    Raises:
        UsageError: an unknown word or an impossible value. ClusterError: there is no SLURM here.
    """
    given = dict(words or {})
    check_names("slurm.", given, ("site", *SLURM_KEYS, *TERM_KEYS))
    site = choose_site(given.pop("site", None))
    request, terms = combine(given, site)
    request, head = complete(request, terms, site, say)
    return Wanted(site, request, head, terms)


def submit(
    config: SweepConfig, run: Path, wanted: Wanted, before: Callable[[SweepDirectory], None], say: Voice
) -> SlurmJob:
    """Submits the fit that is to be in `run`, as launch/submit.py does; `before`: see submit_sweep.

    Raises:
        ClusterError: SLURM refused; says what to change.
    """
    from hpo.cluster.submission import submit_sweep

    directory, jobs = submit_sweep(config, run, wanted.request, wanted.head, wanted.terms, wanted.site, before)
    log = str(directory.submitit / f"{jobs[0]}_0_log.out")
    write_json(PredictorFiles(directory.root).job, {"cluster": "slurm", "job": jobs[0], "log": log})
    say(f"job {' '.join(jobs)}, directory {directory.root}")
    return SlurmJob(jobs[0], log)


class FitHandle:
    """A fit by its directory. From another process: `MultiModalPredictor.attach(directory)`."""

    def __init__(
        self,
        directory: str | Path,
        job: LocalJob | SlurmJob | None = None,
        verbosity: int = 2,
        progress: bool = True,
    ) -> None:
        self._files = PredictorFiles(absolute(directory))
        self._job = job or _find_job(self._files)
        self._verbosity, self._progress = verbosity, progress

    def __repr__(self) -> str:
        return f"FitHandle({str(self.directory)!r})"

    @property
    def directory(self) -> Path:
        return self._files.root

    @property
    def job(self) -> str:
        """SLURM's job id, or the process id on this machine."""
        return self._job.job if isinstance(self._job, SlurmJob) else str(self._job.pid)

    def status(self) -> str:
        """waiting (no attempt has started), running, ended, or unfinished: cut off before its end."""
        state = SweepState(read_events(self._files.sweep.journal))
        if state.ended:
            return "ended"
        if self._job.alive():
            return "running" if state.attempts else "waiting"
        return "unfinished"

    def wait(self, timeout: float | None = None) -> MultiModalPredictor:
        """Waits for the end; returns the predictor. Ctrl-C stops a fit on this machine and leaves a SLURM job alone.

        Args:
            timeout: seconds to wait at most; the fit goes on after them.
        Raises:
            ClusterError: the timeout is over, or the job ended without a usable trial.
        """
        from hpo.predictor.predictor import MultiModalPredictor

        say = voice(self._verbosity) if self._progress and self._verbosity > 0 else None
        watch = Watch(self._files.sweep, int(read_json(self._files.sweep.resolved)["num_trials"]), say)
        try:
            self._follow(watch, timeout)
        except KeyboardInterrupt:
            if isinstance(self._job, LocalJob):
                self._end()
            raise
        finally:
            watch.close()
        if not watch.state.ended:
            self._tell_unfinished(watch)
        return MultiModalPredictor._open(self._files, self._verbosity)

    def cancel(self) -> None:
        """Asks the fit to stop; `wait` then takes what there is, launch/submit.py --resume goes on with it."""
        self._job.stop()

    def _follow(self, watch: Watch, timeout: float | None) -> None:
        begun = time.monotonic()
        while self._job.alive():
            watch.show("waiting in the queue" if isinstance(self._job, SlurmJob) else "starting")
            if watch.state.ended and isinstance(self._job, SlurmJob):
                break  # the queue shows a job for a while after its end
            if timeout is not None and time.monotonic() - begun >= timeout:
                raise ClusterError(f"the fit in {self.directory} is not over after {timeout:g} s; wait again for it.")
            time.sleep(_POLL_S)
        watch.show()

    def _end(self) -> None:
        """Stops the fit and waits until it is gone."""
        self._job.stop()
        end = time.monotonic() + _DRAIN_S
        while self._job.alive():
            if time.monotonic() > end:
                self._job.stop(hard=True)
                break
            time.sleep(_POLL_S)

    def _tell_unfinished(self, watch: Watch) -> None:
        ended = watch.state.attempts[-1]["ended"] if watch.state.attempts else None
        why = f": {ended['reason']}" if ended else f"; its log is {self._job.log}"
        voice(self._verbosity)(f"the fit was cut off{why}; launch/submit.py --resume {self.directory} goes on with it")


def _note(directory: SweepDirectory, child: Any, log: str) -> LocalJob:
    job = LocalJob(child.pid, _start_time(child.pid), socket.gethostname(), log, child)
    about = {name: value for name, value in (("pid", job.pid), ("started", job.started), ("host", job.host))}
    write_json(PredictorFiles(directory.root).job, {"cluster": "local", **about, "log": log})
    return job


def _find_job(files: PredictorFiles) -> LocalJob | SlurmJob:
    if not files.job.is_file():
        raise UsageError(f"{files.root} is no fit that was started from Python (it has no {files.job.name}).")
    values = read_json(files.job)
    if values.pop("cluster") == "slurm":
        return SlurmJob(values["job"], values["log"])
    return LocalJob(**values)


def _start_time(pid: int) -> str:
    """In clock ticks since boot; '' when there is no such process, or only what its parent has not yet noticed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return ask_slurm(command, _COMMAND_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]} gives no answer ({error}); is this machine part of the cluster?") from None
