"""Watches a sweep that runs on this machine: progress on stderr while it goes, the table on stdout at its end."""

from __future__ import annotations

import signal
import time
from typing import Any

from hpo.layout import SweepDirectory, read_json
from hpo.records import read_events
from hpo.results.watch import Watch
from launch.results import main as show_results
from launch.terminal import say

_POLL_S = 0.5
_END_DEADLINE_S = 60


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
    watch.show()
    watch.close()
    if read_events(directory.journal):
        show_results([str(directory.root)])
    if not watch.state.ended:
        if watch.state.attempts and watch.state.attempts[-1]["ended"]:
            say(f"ended early: {watch.state.attempts[-1]['ended']['reason']}")
        say(f"not finished; the log is {job.paths.stdout}")
        say(f"go on with: python launch/submit.py --resume {directory.root}")
        return 130 if interrupted else (_exit_code(directory) or process.returncode or 1)
    if directory.report.exists():
        say(f"report {directory.report}")
    return int(process.returncode or 0)


def _exit_code(directory: SweepDirectory) -> int:
    """What the newest attempt ended with; submitit's local executor keeps only whether it was 0."""
    found = sorted(directory.root.glob("attempts/*/exit.json"), key=lambda path: path.stat().st_mtime)
    return int(read_json(found[-1])["code"]) if found else 0
