"""What became of a trial whose process is gone, or does not answer: the class of the failure and its cause."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from hpo.failures import TrialFailure

_LOOKS = 4  # at the signs of life per timeout
_START_S = 900.0  # for a process to import everything, on a slow file system, before its first sign
_PATIENCE = 1.5  # timeouts: a process ends itself after one, from outside it is ended only if it cannot
_HOST_WORDS = ("node has died", "node was terminated", "never ran")  # the last: its host went as it was to start
_WORDLESS = "its process ended without a word, as by SIGKILL (exit 137), which a host out of memory sends too"


def read_loss(trial: TuneTrial, last_words: Path) -> tuple[str, str]:
    """Class and cause of a failure, from what Ray says and what the process wrote down before it ended."""
    error = _read_error(trial)
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, TrialFailure):
            return cause.kind, cause.cause
        return "exception", _last_line(str(error))
    text = str(error)
    if any(words in text for words in _HOST_WORDS) or getattr(error, "preempted", False):
        return "host", "its host was lost"
    if "worker startup" in text:
        return "killed", "Ray could not start a process for it; attempts/ has the logs, or its host was too busy"
    if "running low on memory" in text or "memory pressure" in text:
        return "oom", "Ray ended its process because the host ran out of memory"
    if words := _read_last_words(last_words):
        return words
    if isinstance(error, RayActorError) and "in its creation task" in text:
        return "exception", _last_line(text)
    return "killed", _WORDLESS


def _read_error(trial: TuneTrial) -> Any:
    """The exception that Tune has just written down, in a file of this process."""
    try:
        return cloudpickle.loads(Path(str(trial.pickled_error_file)).read_bytes())
    except Exception as error:  # of a class that cannot be pickled or is not known here: any of them
        return error


def _read_last_words(path: Path) -> tuple[str, str] | None:
    """From the stacks that hpo.trial.watchdog or a crash left in `path`: the failure, and the main thread's place."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    stack = text.rpartition("Current thread ")[2].partition("\n\n")[0] if "Current thread " in text else text
    frames = re.findall(r'File "([^"]*)", line (\d+) in (.*)', stack.rpartition("\nThread ")[2])
    place = f" in {frames[0][2]} ({Path(frames[0][0]).name}:{frames[0][1]})" if frames else ""
    if timeout := re.search(r"^Timeout \((.*)\)!", text, re.MULTILINE):
        return "hang", f"no progress for {timeout[1].partition('.')[0]}{place}; its log.txt has the stacks"
    if crash := re.search(r"^Fatal Python error: (.*)", text, re.MULTILINE):
        return "killed", f"its process crashed: {crash[1]}{place}; its log.txt has the stacks"
    return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no cause is known"


@dataclass
class _Watched:
    trial: TuneTrial
    sign: float  # of life: when the trial's file was last touched, by the clock of whoever did it
    since: float  # by our own clock: when that sign was first seen
    alive: bool = False  # whether a sign has come at all


class SilenceWatch:
    """Ends processes that show no sign of life and have not ended themselves: stopped, or stuck in the kernel."""

    def __init__(self, timeout_s: float, locate: Any) -> None:
        self._timeout, self._locate = timeout_s, locate
        self._watched: dict[str, _Watched] = {}
        self._silent: dict[str, str] = {}
        self._looked = 0.0

    def start(self, name: str, trial: TuneTrial) -> None:
        self._watched[name] = _Watched(trial, self._sign(name), time.monotonic())

    def end(self, name: str) -> str:
        """Forgets the trial; returns the cause if it was ended from here, else ''."""
        self._watched.pop(name, None)
        return self._silent.pop(name, "")

    def look(self) -> None:
        now = time.monotonic()
        if not self._timeout or now - self._looked < self._timeout / _LOOKS:
            return
        self._looked = now
        for name, watched in self._watched.items():
            sign, running = self._sign(name), watched.trial.status == TuneTrial.RUNNING
            patience = self._timeout * _PATIENCE if watched.alive else max(self._timeout * _PATIENCE, _START_S)
            if sign != watched.sign or not running:
                watched.alive = watched.alive or sign != watched.sign
                watched.sign, watched.since = sign, now
            elif now - watched.since > patience and name not in self._silent:
                self._silent[name] = f"no sign of life for {now - watched.since:.0f} s, and it did not end by itself"
                if actor := watched.trial.temporary_state.ray_actor:
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.kill(actor)

    def _sign(self, name: str) -> float:
        try:
            return float(self._locate(name).stat().st_mtime)
        except OSError:
            return 0.0
