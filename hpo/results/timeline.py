"""When things happened in a sweep, on a clock that only runs while an attempt is at work.

Days may lie between two attempts; what a person wants to see is the time that was paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpo.records import Event


@dataclass
class Attempt:
    """One SLURM job, or one local run, on the sweep."""

    id: str
    started_at: float  # Unix seconds
    clock: float  # seconds of earlier attempts
    job: str = ""
    host: str = ""
    nodes: str = ""
    seconds: float = 0.0  # up to its last event
    ended: bool = False  # it said so itself; else it runs or was killed
    reason: str = ""


@dataclass(frozen=True)
class Improvement:
    """A trial became the best so far."""

    seconds: float  # on the clock
    trial: str
    epoch: int
    value: float


@dataclass(frozen=True)
class Span:
    """A trial at work on a node, from start to end in seconds on the clock."""

    trial: str
    node: str
    start: float
    end: float


class Timeline:
    """The fold of a journal that looks at its times. Give it the events in order."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.history: list[Improvement] = []
        self.seconds: dict[str, float] = {}  # trial -> time that it ran, up to its last event
        self.spans: list[Span] = []
        self.longest_silence = 0.0
        self._clock = 0.0
        self._last = 0.0
        self._seen: dict[str, float] = {}  # running trial -> the clock at its last event
        self._begun: dict[str, tuple[str, float]] = {}  # running trial -> its node, and the clock when it started there
        self._metric, self._maximise = "", True

    def apply(self, event: Event) -> None:
        kind = event["type"]
        if kind == "sweep":
            self._metric, self._maximise = event["metric"], event["mode"] == "max"
        elif kind == "attempt_started":
            self._start_attempt(event)
        elif self.attempts and not self.attempts[-1].ended:
            self._advance(event)
            if "trial" in event:
                self._apply_to_trial(event)
            elif kind == "attempt_ended":
                self._end_attempt(event)
        self._last = event["t"]

    def _start_attempt(self, event: Event) -> None:
        attempt = Attempt(str(event["attempt"]), started_at=event["t"], clock=self._clock)
        attempt.job, attempt.host = str(event.get("job") or ""), str(event.get("host") or "")
        nodes = event.get("nodes") or ""
        attempt.nodes = ", ".join(map(str, nodes)) if isinstance(nodes, list) else str(nodes)
        self.attempts.append(attempt)
        for trial in list(self._begun):
            self._close_span(trial, self._seen.get(trial, self._clock))
        self._seen.clear()  # what a killed attempt ran stopped at its last event

    def _advance(self, event: Event) -> None:
        passed = max(0.0, event["t"] - self._last)  # clocks of two nodes may disagree
        self.longest_silence = max(self.longest_silence, passed)
        self._clock += passed
        self.attempts[-1].seconds += passed

    def _end_attempt(self, event: Event) -> None:
        for trial in list(self._seen):
            self._credit(trial)
        self._seen.clear()
        for trial in list(self._begun):
            self._close_span(trial, self._clock)
        self.attempts[-1].ended, self.attempts[-1].reason = True, str(event.get("reason", ""))

    def _apply_to_trial(self, event: Event) -> None:
        trial, kind = event["trial"], event["type"]
        if kind == "started":
            self._close_span(trial, self._clock)
            self._seen[trial] = self._clock
            self._begun[trial] = event.get("node", ""), self._clock
        elif trial in self._seen:
            self._credit(trial)
        if kind in ("failed", "finished") or (kind == "decided" and event["action"] == "pause"):
            self._seen.pop(trial, None)
            self._close_span(trial, self._clock)
        if kind == "reported":
            self._note_improvement(event)

    def _close_span(self, trial: str, end: float) -> None:
        if trial in self._begun:
            node, start = self._begun.pop(trial)
            self.spans.append(Span(trial, node, start, end))

    def finish(self) -> None:
        """After the last event: trials that are still at work have been so until now."""
        for trial in list(self._begun):
            self._close_span(trial, self._clock)

    def _credit(self, trial: str) -> None:
        self.seconds[trial] = self.seconds.get(trial, 0.0) + self._clock - self._seen[trial]
        self._seen[trial] = self._clock

    def _note_improvement(self, event: Event) -> None:
        value = event["metrics"].get(self._metric)
        if value is None:
            return
        best = self.history[-1].value if self.history else None
        if best is None or (value > best if self._maximise else value < best):
            self.history.append(Improvement(self._clock, event["trial"], event["epoch"], value))
