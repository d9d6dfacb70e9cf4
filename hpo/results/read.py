"""What came out of a sweep, read from its directory: each trial with its rank and why it ended, and the whole.

Reads files only, writes nothing, and needs only the standard library, so that a copy can be looked at anywhere. The
journal may still be growing and its last line may be torn.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.layout import SweepDirectory, absolute, read_json
from hpo.records import FINAL_STATES, Event, SweepState, Trial, read_events
from hpo.results.reasons import STATES, explain
from hpo.results.timeline import Attempt, Improvement, Span, Timeline
from hpo.results.wording import count, one_line

_LEAST_SILENCE = 600.0  # seconds without an event before a running sweep is doubted


@dataclass(frozen=True)
class Row:
    """One trial as a person sees it."""

    rank: int | None  # 1 is best; None while it has no value
    trial: str
    number: int
    state: str  # one of STATES
    reason: str  # why it is in that state, as a sentence
    brief: str  # the same in a few words, for a table that says the rest in its other columns
    value: float | None  # of its best epoch
    best_epoch: int | None
    epochs: int  # done
    max_epochs: int | None  # asked for
    params: Mapping[str, Any]  # what was searched
    origin: str
    seconds: float  # that it ran, over all attempts
    node: str  # where it ran last
    curve: Sequence[tuple[int, float | None]] = ()  # epoch and value, as last reported
    decisions: Sequence[Event] = ()
    judgements: Sequence[Event] = ()  # of a scheduler of Ray Tune
    failures: Sequence[Event] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # of its best epoch, else of its last; numbers
    note: str = ""  # what the searcher said of it
    suggested_at: int = 0  # the place of its suggestion in the journal
    rung: int | None = None  # that the model which suggested it looked at
    alone: bool = False  # it looked at none of the earlier sweeps that warm_start gave


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one kind; a trial that failed and ran again counts each time."""

    kind: str
    failures: int
    trials: tuple[str, ...]
    cause: str  # of the last one


@dataclass(frozen=True)
class Rung:
    """What ASHA did at one rung. `epochs` are several where trials differ in length. Of those that arrived, `stopped`
    went no further and `paused` wait there now."""

    number: int
    epochs: tuple[int, ...]
    arrived: int
    stopped: int
    paused: int = 0


@dataclass(frozen=True)
class Results:
    """A sweep's results. `rows`: best first, then those without a value. `columns`: searched key -> short name."""

    directory: SweepDirectory
    name: str
    metric: str
    mode: str
    status: str  # waiting (no attempt yet), running, unfinished (no attempt at work) or ended
    num_trials: int | None  # asked for
    rows: list[Row]
    columns: dict[str, str]
    constants: Mapping[str, Any]
    attempts: list[Attempt]
    history: list[Improvement]
    rungs: list[Rung]
    failures: list[FailureGroup]
    last_event_at: float | None = None
    longest_silence: float = 0.0  # seconds between two events while an attempt was at work
    settings: Mapping[str, Any] = field(default_factory=dict)  # resolved.json
    objectives: Sequence[str] = ()  # to be small, beside the metric
    spans: Sequence[Span] = ()

    @property
    def best(self) -> Row | None:
        return self.rows[0] if self.rows and self.rows[0].rank else None

    @property
    def default(self) -> Row | None:
        """Trial 0: the default configuration, unless the sweep file gave its own first point."""
        return next((row for row in self.rows if row.number == 0), None)

    @property
    def states(self) -> dict[str, int]:
        """Trials by state, in the order of STATES, without zeros."""
        present = [row.state for row in self.rows]
        return {state: present.count(state) for state in STATES if state in present}

    @property
    def maximise(self) -> bool:
        return self.mode == "max"

    @property
    def losses(self) -> list[FailureGroup]:
        """Failures by kind, then the trials that diverged: no program failed there, but nothing came of them either."""
        lost = [row for row in self.rows if row.state == "diverged"]
        group = FailureGroup("diverged", len(lost), tuple(row.trial for row in lost), lost[-1].reason if lost else "")
        return [*self.failures, *([group] if lost else [])]

    def silence(self, now: float) -> float:
        """Seconds since anything happened. `now`: Unix seconds."""
        return now - (self.last_event_at or now)

    def seems_dead(self, now: float) -> bool:
        """A sweep that should be running, but has been silent for much longer than ever before."""
        return self.status == "running" and self.silence(now) > max(_LEAST_SILENCE, 5 * self.longest_silence)

    def gain(self) -> float | None:
        """By how much the best trial beats trial 0; negative never, None when one has no value."""
        if not self.best or not self.default or self.best.value is None or self.default.value is None:
            return None
        return abs(self.best.value - self.default.value)


def open_results(path: str | Path) -> SweepDirectory:
    """The sweep in directory `path`, as long as either its journal or its resolved.json is there.

    Raises:
        UsageError: it is not a sweep's directory.
    """
    directory = SweepDirectory(absolute(path))
    if directory.journal.is_file() or directory.resolved.is_file():
        return directory
    if not directory.root.is_dir():
        raise UsageError(f"{path} is not a directory; name the one that submit.py printed.")
    inside = [found.parent for found in directory.root.glob("*/resolved.json")]
    newest = max(inside, key=lambda folder: folder.stat().st_mtime, default=None)
    remedy = f"the newest sweep in it is {newest}" if newest else "name the one that submit.py printed"
    raise UsageError(f"{path} is not a sweep's directory (it has no journal.jsonl and no resolved.json); {remedy}.")


def read_results(directory: SweepDirectory) -> Results:
    """All of a sweep's results.

    Raises:
        JournalError: the journal is damaged before its last line, or is newer than this program.
        UsageError: resolved.json is not readable JSON.
    """
    with _without_collector():
        return _read(directory)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's garbage collector would walk through a million fresh objects, none of them garbage, again and again: a
    fifth of the time for 10,000 trials."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(directory: SweepDirectory) -> Results:
    settings = read_json(directory.resolved) if directory.resolved.is_file() else {}
    events = read_events(directory.journal)
    state, timeline = SweepState(events), Timeline()
    for event in events:
        timeline.apply(event)
    timeline.finish()
    num_trials = settings.get("num_trials")
    rows = _rows(state, timeline, settings)
    return Results(
        directory=directory,
        name=str(settings.get("name") or state.header.get("name") or directory.root.name),
        metric=str(settings.get("metric") or state.metric),
        mode=str(settings.get("mode") or state.header.get("mode", "max")),
        status=_status(state, num_trials),
        num_trials=num_trials,
        rows=rows,
        columns=short_names(_searched_keys(state, settings)),
        constants=settings.get("constants", {}),
        attempts=timeline.attempts,
        history=timeline.history,
        rungs=[] if settings.get("tune", {}).get("scheduler") == "FIFO" else _rungs(state),
        failures=_failures(state),
        last_event_at=events[-1]["t"] if events else None,
        longest_silence=timeline.longest_silence,
        spans=timeline.spans,
        settings=settings,
        objectives=settings.get("objectives", ()),
    )


def _status(state: SweepState, num_trials: int | None) -> str:
    if not state.attempts:
        return "waiting"
    all_done = num_trials is not None and len(state.trials) >= num_trials
    if state.ended or (all_done and all(trial.finished for trial in state.trials.values())):
        return "ended"
    return "unfinished" if state.attempts[-1]["ended"] else "running"


def _searched_keys(state: SweepState, settings: Mapping[str, Any]) -> list[str]:
    """In the order of the sweep file; without one, in the order in which trials had them."""
    keys = [dimension["key"] for dimension in settings.get("space", [])]
    keys += [key for trial in state.trials.values() for key in trial.params]
    return list(dict.fromkeys(keys))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part, or the whole key where two would look the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _rows(state: SweepState, timeline: Timeline, settings: Mapping[str, Any]) -> list[Row]:
    ranked = state.ranking()
    others = [trial for trial in state.trials.values() if not trial.best]
    others.sort(key=lambda trial: (STATES.index(trial.state) if trial.state in STATES else 0, trial.number))
    rows = [_row(trial, rank, state, timeline, settings) for rank, trial in enumerate(ranked, start=1)]
    return rows + [_row(trial, None, state, timeline, settings) for trial in others]


def _row(trial: Trial, rank: int | None, state: SweepState, timeline: Timeline, settings: Mapping[str, Any]) -> Row:
    asked = trial.params.get("optim.max_epochs", settings.get("constants", {}).get("optim.max_epochs"))
    max_epochs = asked or state.header.get("max_epochs")
    reason, brief = explain(trial, max_epochs, settings.get("tune", {}).get("reduction_factor"))
    return Row(
        rank=rank,
        trial=trial.id,
        number=trial.number,
        state=trial.state,
        reason=reason,
        brief=brief,
        value=trial.best[1] if trial.best else None,
        best_epoch=trial.best[0] if trial.best else None,
        epochs=trial.epochs,
        max_epochs=max_epochs,
        params=trial.params,
        origin=trial.origin,
        seconds=timeline.seconds.get(trial.id, 0.0),
        node=trial.node,
        curve=[(epoch, trial.last[epoch].get(state.metric)) for epoch in sorted(trial.last)],
        decisions=trial.decisions,
        judgements=trial.judgements,
        failures=trial.failures,
        metrics=_metrics(trial),
        note=trial.note,
        suggested_at=trial.suggested_at,
        rung=trial.rung,
        alone=trial.alone,
    )


def _metrics(trial: Trial) -> dict[str, float | None]:
    found = trial.last.get(trial.best[0] if trial.best else trial.epochs, {})
    return {name: value for name, value in found.items() if value is None or isinstance(value, (int, float))}


def _rungs(state: SweepState) -> list[Rung]:
    found: dict[int, dict[str, Event]] = {}  # rung -> trial -> the last word on it
    for trial in state.trials.values():
        for decision in trial.decisions:
            if trial.state != "completed" or decision["epoch"] < trial.epochs:  # at the end there is nothing to stop
                found.setdefault(decision["rung"], {})[trial.id] = decision
    return [
        Rung(
            number=number,
            epochs=tuple(sorted({decision["epoch"] for decision in found[number].values()})),
            arrived=len(found[number]),
            stopped=sum(decision["action"] == "stop" for decision in found[number].values()),
            paused=sum(decision["action"] == "pause" for decision in found[number].values()),
        )
        for number in sorted(found)
    ]


def _failures(state: SweepState) -> list[FailureGroup]:
    """The most frequent kind first."""
    groups: dict[str, list[Event]] = {}
    for trial in state.trials.values():
        for failure in trial.failures:
            groups.setdefault(one_line(failure["kind"]), []).append(failure)
    found = [
        FailureGroup(kind, len(events), tuple(dict.fromkeys(e["trial"] for e in events)), _last_cause(events))
        for kind, events in groups.items()
    ]
    return sorted(found, key=lambda group: -group.failures)


def _last_cause(events: Sequence[Event]) -> str:
    return one_line(max(events, key=lambda event: event["n"])["cause"])


def current_best_line(state: SweepState) -> str:
    """The log's line on the incumbent; '' while there is none. Values are written in full, as Python writes them."""
    best = state.incumbent()
    if not best or not best.best:
        return ""
    return f"Current best trial: {best.id} with {state.metric}={best.best[1]!r} and parameters={best.params!r}"


def progress_line(state: SweepState, num_trials: int) -> str:
    """How far a sweep is: '7 of 16 trials ended (4 stopped, 1 failed), 2 running, 31 epochs, best ... (0007)'."""
    trials = state.trials.values()
    by_state = {word: sum(trial.state == word for trial in trials) for word in STATES}
    ended = sum(by_state[word] for word in FINAL_STATES)
    early = ", ".join(f"{by_state[word]} {word}" for word in FINAL_STATES[1:] if by_state[word])
    parts = [f"{ended} of {num_trials} trials ended" + (f" ({early})" if early else "")]
    parts += [f"{by_state[word]} {word}" for word in ("running", "interrupted", "paused") if by_state[word]]
    parts.append(count(sum(trial.epochs for trial in trials), "epoch"))
    best = state.incumbent()
    if best and best.best:
        parts.append(f"best {state.metric} {best.best[1]:.4g} ({best.id})")
    return ", ".join(parts)
