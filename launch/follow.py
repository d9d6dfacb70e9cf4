"""Watches a sweep that runs on this machine: progress on stderr while it goes, the table on stdout at its end."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import Any

from hpo.layout import SweepDirectory, read_json
from hpo.records import Event, SweepState, read_events
from hpo.results.read import progress_line
from hpo.results.wording import duration, short
from launch.results import main as show_results
from launch.terminal import say

_POLL_S = 0.5
_END_DEADLINE_S = 60


def follow(job: Any, directory: SweepDirectory, num_trials: int) -> int:
    """Waits for `job`, submitit's, and returns the command's exit code. Ctrl-C ends the sweep so that it can go on."""
    watch = _Watch(directory, num_trials)
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


class _Watch:
    """A line that is redrawn on a terminal; elsewhere a line for each trial that ends."""

    def __init__(self, directory: SweepDirectory, num_trials: int) -> None:
        self._directory, self._num_trials = directory, num_trials
        self._live = sys.stderr.isatty()
        self._start = time.monotonic()
        self._shown = 0
        self.state = SweepState()

    def show(self) -> None:
        events = read_events(self._directory.journal)
        for event in events[self._shown :]:
            self.state.apply(event)
            if not self._live:
                self._tell(event)
        self._shown = len(events)
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be drawn over
            sys.stderr.write(f"\r\x1b[K{short(self._line(), width)}")
            sys.stderr.flush()

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def _tell(self, event: Event) -> None:
        if event["type"] == "finished":
            say(f"trial {event['trial']} {event['state']}: {event['reason']}; {self._line()}")
        elif event["type"] == "failed" and event["retry"]:
            say(f"trial {event['trial']} {event['kind']}: {event['cause']}; it will run again")
        elif event["type"] == "attempt_started":
            say("Ray starts")

    def _line(self) -> str:
        if not self.state.trials:
            return f"preparing data and starting Ray ({duration(time.monotonic() - self._start)})"
        return f"{progress_line(self.state, self._num_trials)}{self._left()}"

    def _left(self) -> str:
        """An estimate from the trials that have ended; early ones stop more, so it errs on the long side at first."""
        ended = sum(trial.finished for trial in self.state.trials.values())
        if ended < 3 or ended >= self._num_trials:
            return ""
        spent = time.monotonic() - self._start
        return f", about {duration(spent / ended * (self._num_trials - ended))} left"
