"""Watches a sweep, here or on SLURM: progress on stderr while it goes, the table on stdout when it rests."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from hpo.cluster.jobs import queue_states, read_jobs
from hpo.errors import STOPPED
from hpo.layout import SweepDirectory, read_json
from hpo.records import read_events
from hpo.results.watch import Watch
from launch.results import main as show_results
from launch.terminal import say

_POLL_S = 0.5
_END_DEADLINE_S = 60
_ASK_S = 5.0  # between two questions to SLURM
_GONE_ASKS = 3  # in a row without a job in the queue: one that is being requeued is missing for a moment


def follow(job: Any, directory: SweepDirectory, num_trials: int) -> int:
    """Waits for `job`, submitit's, and returns the command's exit code. Ctrl-C ends the sweep so that it can go on."""
    watch = Watch(directory, num_trials, say)
    process = job._process
    interrupted = None
    while process.poll() is None:
        try:
            watch.show()
            time.sleep(_POLL_S)
        except KeyboardInterrupt:
            if interrupted:
                process.kill()
            interrupted = interrupted or time.monotonic()
            say("stopping; Ctrl-C again ends it at once")
            process.send_signal(signal.SIGTERM)
        if interrupted and time.monotonic() - interrupted > _END_DEADLINE_S:
            process.kill()
    code = _conclude(watch, directory, str(job.paths.stdout))
    if watch.state.ended:
        return int(process.returncode or 0)
    return 130 if interrupted else (code or process.returncode or 1)


def follow_on_slurm(directory: SweepDirectory, num_trials: int) -> int:
    """Waits until SLURM has no job of the sweep any more; returns the exit code. Ctrl-C ends the waiting alone."""
    watch = Watch(directory, num_trials, say)
    gone, asked = 0, time.monotonic()
    try:
        while gone < (1 if watch.state.ended else _GONE_ASKS):
            watch.show("waiting for SLURM to start it")
            time.sleep(_POLL_S)
            if time.monotonic() - asked > _ASK_S:
                there = queue_states(record.job for record in read_jobs(directory))
                gone, asked = gone + 1 if there == {} else 0, time.monotonic()
    except KeyboardInterrupt:
        watch.close()
        say("not waiting any longer; the sweep goes on without us")
        raise
    code = _conclude(watch, directory, f"in {directory.submitit}")
    return code if watch.state.ended else (code or STOPPED)


def _conclude(watch: Watch, directory: SweepDirectory, log: str) -> int:
    """The table and what comes next, of a sweep that rests; returns `_exit_code`."""
    watch.show()
    watch.close()
    if read_events(directory.journal):
        show_results([str(directory.root)])
    if watch.state.ended:
        if directory.report.exists():
            say(f"report {directory.report}")
        return _exit_code(directory, watch)
    last = watch.state.attempts[-1] if watch.state.attempts else None
    if last and last["ended"]:
        say(f"ended early: {last['ended']['reason']}")
    say(f"not finished; the log is {log}")
    say(f"go on with: python launch/submit.py --resume {directory.root}")
    return _exit_code(directory, watch)


def _exit_code(directory: SweepDirectory, watch: Watch) -> int:
    """What the newest attempt ended with, 0 where it did not say so. submitit's local executor keeps only whether it
    was 0. One that could not say it, on a full disk, was stopped before its end if its driver still wrote that."""
    newest = max(directory.attempt_folders(), key=lambda folder: folder.stat().st_mtime, default=Path())
    if (newest / "exit.json").is_file():
        return int(read_json(newest / "exit.json")["code"])
    attempts = watch.state.attempts
    return STOPPED if attempts and attempts[-1]["ended"] and attempts[-1]["attempt"] == newest.name else 0
