"""The journal: what happened in a sweep, one JSON line an event, and the state that follows from it.

`journal.jsonl` is append-only, fsynced line by line, and has one writer, the driver. Everything else in the
directory can be rebuilt from it. Each event has `v` (format version), `n` (its place), `t` (Unix seconds) and `type`:

    sweep            name metric mode seed max_epochs num_trials search data   once, the first line; the last two:
                                                              of hpo.fingerprint, what no attempt may change
    attempt_started  attempt job host nodes mode code         an attempt took the sweep up; code: versions it runs on
    attempt_refused  attempt reason                           a job came back that was to make no further attempt
    extended         num_trials before                        a person asked for another number of trials
    worker_joined    attempt worker host job cpus gpus since  since: Unix seconds from which on it is paid for
    worker_left      attempt worker host reason
    worker_replaced  attempt job replaces                     a pool's lost worker job, and the one in its place
    worker_released  attempt worker host                      a pool's worker that is needed no more
    used             attempt gpu_hours                        so far, of all attempts; where there is a budget
    suggested        trial number origin params note          origin: default, user, earlier, random, model, searcher;
                                                              rung: the model knew who had come there by then;
                                                              alone: of this sweep only, not of earlier ones
    started          trial attempt node epoch                 epoch: completed ones it goes on from
    reported         trial attempt epoch metrics              a metric that is not finite is null; with end, the trial
                                                              ends by itself; opened: seconds that opening it took
    decided          trial epoch rung action value cutoff rank of   ASHA's verdict at a rung: continue, stop or pause
    reviewed         trial epoch rung action value cutoff rank of   of one that waits there: continue (promoted) or stop
    judged           trial epoch action by                    pause or stop, by a scheduler of Ray Tune named `by`
    checkpointed     trial epoch path                         path: relative to the sweep's directory
    failed           trial attempt kind cause epoch retry     kind: of hpo.failures; retry: it is to run again
    finished         trial state reason                       state: completed, stopped, diverged or failed
    ending           rule reason                              no new trials any more: target or plateau
    attempt_ended    attempt reason
    sweep_ended      reason

A trial that is resumed reports an epoch again, with its new attempt: decisions use the first report, curves the last.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.errors import JournalError, JournalHeldError

FORMAT = 1
_LAST_BYTES = 4096  # in which the short event is that ends a sweep
FINAL_STATES = ("completed", "stopped", "diverged", "failed")

Event = dict[str, Any]


def read_events(path: Path) -> list[Event]:
    """All whole events of the journal at `path`; [] when there is none yet. A torn last line is left out.

    Raises:
        JournalError: a line other than the last is damaged, or a newer slurmtune wrote the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_parse(content, path))


def says_ended(path: Path) -> bool:
    """Whether the sweep has ended, by the journal's last event alone: to be asked often, by many."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - _LAST_BYTES))
        last = stream.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        with contextlib.suppress(ValueError):  # an event that is longer than that, or none yet
            return bool(json.loads(last)["type"] == "sweep_ended")
    return False


def _parse(content: bytes, path: Path) -> Iterator[Event]:
    whole, decode = content[: content.rfind(b"\n") + 1], json.JSONDecoder().decode
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            event = decode(str(line, "utf-8"))  # a fifth faster than json.loads, which guesses the encoding of each
        except ValueError:
            raise JournalError(
                f"{path} line {number} is damaged ({line[:40]!r}); restore it from a copy, or cut it before that line."
            ) from None
        _check_frame(event, number, path)
        yield event


def _check_frame(event: Any, number: int, path: Path) -> None:
    if not isinstance(event, dict) or not isinstance(event.get("v"), int) or not isinstance(event.get("type"), str):
        raise JournalError(f"{path} line {number} is not an event ({str(event)[:40]!r}); restore the file from a copy.")
    if event["v"] > FORMAT:
        raise JournalError(
            f"{path} line {number} has format {event['v']}, this slurmtune reads up to {FORMAT}; use a newer slurmtune."
        )
    if event.get("n") != number - 1:
        raise JournalError(
            f"{path} line {number} holds event {event.get('n')!r}: lines are missing or twice there; restore a copy."
        )


class Journal:
    """The one writer of a journal. Holds a lock on the file from opening to `close`.

    Raises:
        JournalError: another driver holds the journal, or it is damaged (see read_events).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = path.open("ab+", buffering=0)
        except OSError as error:
            raise JournalError(
                f"{path} cannot be written ({error.strerror}); make its directory writable, or go on with a copy of it."
            ) from None
        os.fchmod(self._stream.fileno(), 0o600)
        self._lock()
        self._stream.seek(0)
        content = self._stream.read()
        try:
            self.events = list(_parse(content, path))
        except JournalError:
            self._stream.close()
            raise
        torn = len(content) - (content.rfind(b"\n") + 1)
        if torn:  # a write was cut off: the half line goes before anything is added behind it
            self._stream.truncate(len(content) - torn)
            os.fsync(self._stream.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            starts = [event for event in read_events(self._path) if event["type"] == "attempt_started"]
            holder = f"attempt {starts[-1]['attempt']} on {starts[-1]['host']}" if starts else "another process"
            self._stream.close()
            problem = f"{self._path} is being written by {holder}"
            raise JournalHeldError(f"{problem}; wait for it or cancel it first.") from None
        except OSError as error:  # Lustre mounted without `flock` says ENOSYS: nobody holds anything
            self._stream.close()
            raise JournalError(
                f"{self._path} cannot be locked ({error.strerror}): its file system has no locks; use another one."
            ) from None

    def append(self, kind: str, /, **fields: Any) -> Event:
        """Adds one event durably and returns it as a reader will see it.

        Raises:
            JournalError: the disk is full or over quota; the journal then ends with the event before.
        """
        return self.append_all((kind, fields))[0]

    def append_all(self, *events: tuple[str, dict[str, Any]]) -> list[Event]:
        """The same for several of (type, fields) at once: a process that is killed leaves all of them or none."""
        now, first = round(time.time(), 3), len(self.events)
        added = [{"v": FORMAT, "n": first + place, "t": now, "type": kind, **_finite(fields)}
                 for place, (kind, fields) in enumerate(events)]  # fmt: skip
        self._write(b"".join(json.dumps(event, allow_nan=False).encode() + b"\n" for event in added))
        self.events += added
        return added

    def _write(self, lines: bytes) -> None:
        """Adds `lines` whole or not at all: on a half line the next one would be lost too."""
        end, rest = self._stream.seek(0, io.SEEK_END), memoryview(lines)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # of a file system that is read-only by now: a torn line is no event
                self._stream.truncate(end)
            problem = f"{self._path} cannot be written ({error.strerror})"
            raise JournalError(f"{problem}; free space there, then submit.py --resume goes on.") from None

    def close(self) -> None:
        self._stream.close()


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@dataclass
class Trial:
    """One configuration and all that the journal says of it."""

    id: str
    number: int
    params: dict[str, Any]
    origin: str
    note: str = ""
    suggested_at: int = 0  # the place of its suggestion in the journal
    rung: int | None = None  # that the model which suggested it looked at
    alone: bool = False  # it looked at none of the earlier sweeps that warm_start gave
    state: str = "suggested"  # suggested, running, interrupted, paused, promoted or one of FINAL_STATES
    reason: str = ""
    end: str = ""  # why it ends by itself, from its last report
    first: dict[int, dict[str, float | None]] = field(default_factory=dict)  # epoch -> metrics, as first reported
    last: dict[int, dict[str, float | None]] = field(default_factory=dict)  # epoch -> metrics, as last reported
    decisions: list[Event] = field(default_factory=list)
    judgements: list[Event] = field(default_factory=list)  # pauses and stops by a scheduler of Ray Tune
    failures: list[Event] = field(default_factory=list)
    checkpoint: tuple[int, str] | None = None  # epoch and path below the sweep's directory
    node: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    best: tuple[int, float] | None = None  # epoch and value of the sweep's metric

    @property
    def epochs(self) -> int:
        """Epochs completed."""
        return max(self.last, default=0)

    @property
    def finished(self) -> bool:
        return self.state in FINAL_STATES


class SweepState:
    """The fold of a journal. `apply` takes events in their order; nothing else changes it."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.header: Event = {}
        self.trials: dict[str, Trial] = {}
        self.attempts: list[Event] = []
        self.num_trials: int | None = None  # asked for; an old journal does not say
        self.ending: Event | None = None
        self.ended: Event | None = None
        self.events = 0
        self.unfinished: dict[str, Trial] = {}  # in the order of their suggestion
        self._best: Trial | None = None
        for event in events:
            self.apply(event)

    @property
    def metric(self) -> str:
        return str(self.header.get("metric", ""))

    @property
    def maximise(self) -> bool:
        return self.header.get("mode", "max") == "max"

    def better(self, a: float, b: float) -> bool:
        return a > b if self.maximise else a < b

    def ranking(self) -> list[Trial]:
        """Trials with a value, best first; of equals the earlier one."""
        valued = [trial for trial in self.trials.values() if trial.best]
        sign = -1 if self.maximise else 1
        return sorted(valued, key=lambda trial: (sign * trial.best[1], trial.number))  # type: ignore[index]

    def incumbent(self) -> Trial | None:
        """The trial with the best value so far, by its best epoch; of equals the earlier one."""
        return self._best

    def apply(self, event: Event) -> None:
        self.events += 1
        handler = getattr(self, f"_on_{event['type']}", None)
        if handler:  # an older reader passes over event types that it does not know
            handler(event)

    def _on_sweep(self, event: Event) -> None:
        self.header, self.num_trials = event, event.get("num_trials")

    def _on_extended(self, event: Event) -> None:
        self.num_trials = event["num_trials"]

    def _on_attempt_started(self, event: Event) -> None:
        self.attempts.append({**event, "ended": None})
        self.ended = None
        self._interrupt_running()

    def _on_attempt_ended(self, event: Event) -> None:
        if self.attempts:
            self.attempts[-1]["ended"] = event
        self._interrupt_running()

    def _interrupt_running(self) -> None:
        """Whatever ran when an attempt ended, or had not noticed that it ended, waits to be resumed."""
        for trial in self.unfinished.values():
            if trial.state == "running":
                trial.state = "interrupted"

    def _on_ending(self, event: Event) -> None:
        self.ending = event

    def _on_sweep_ended(self, event: Event) -> None:
        self.ended = event

    def _on_suggested(self, event: Event) -> None:
        about = {"note": event.get("note", ""), "suggested_at": event["n"], "rung": event.get("rung"),
                 "alone": event.get("alone", False)}  # fmt: skip
        trial = Trial(event["trial"], event["number"], event["params"], event["origin"], **about)
        self.trials[trial.id] = self.unfinished[trial.id] = trial

    def _on_started(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.state, trial.node = "running", event.get("node", "")
        trial.started_at = trial.started_at or event["t"]

    def _on_reported(self, event: Event) -> None:
        trial, epoch, metrics = self.trials[event["trial"]], event["epoch"], event["metrics"]
        trial.first.setdefault(epoch, metrics)
        trial.last[epoch] = metrics
        trial.end = event.get("end", "")
        value = metrics.get(self.metric)
        if value is not None and (trial.best is None or self.better(value, trial.best[1])):
            trial.best = (epoch, value)
            self._note_best(trial, value)

    def _note_best(self, trial: Trial, value: float) -> None:
        best = self._best.best[1] if self._best and self._best.best else None
        if best is None or self.better(value, best) or (value == best and trial.number < self._best.number):  # type: ignore[union-attr]
            self._best = trial

    def _on_decided(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.decisions.append(event)
        if event["action"] == "pause":
            trial.state = "paused"

    def _on_reviewed(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.decisions.append(event)
        if event["action"] == "continue":
            trial.state = "promoted"

    def _on_judged(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.judgements.append(event)
        if event["action"] == "pause":
            trial.state = "paused"

    def _on_checkpointed(self, event: Event) -> None:
        self.trials[event["trial"]].checkpoint = (event["epoch"], event["path"])

    def _on_failed(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.failures.append(event)
        if event.get("retry"):
            trial.state = "interrupted"

    def _on_finished(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.state, trial.reason, trial.ended_at = event["state"], event["reason"], event["t"]
        self.unfinished.pop(trial.id, None)
