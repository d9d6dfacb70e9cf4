"""What the attempts on a sweep used and brought: a fold of the journal. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hpo.records import Event

_SHORT_S = 60  # an attempt to which no worker came in less than this has failed, in more it has waited for one


@dataclass
class AttemptUse:
    """One attempt. `workers`: those that are joined now, with Unix seconds since when they are paid for, and GPUs."""

    origin: str
    began: float
    epochs: int = 0
    joined: int = 0
    gpu_seconds: float = 0.0
    reason: str = ""
    last: float = 0.0
    pool: bool = False
    workers: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def waited(self) -> bool:
        """Whether nothing can be held against it: it waited for workers of a pool in vain."""
        return self.pool and not self.joined and self.last - self.began > _SHORT_S

    def leave(self, worker: str, now: float) -> None:
        since, gpus = self.workers.pop(worker, (now, 0))
        self.gpu_seconds += max(0.0, now - since) * gpus


def origin(job: str, attempt: str) -> str:
    """What makes attempts again and again by itself: a SLURM job, or a run on this machine."""
    return job or attempt.partition("-")[0]


class Usage:
    """The fold of a journal that counts what was paid for. Give it the events in order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.attempts: list[AttemptUse] = []
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        if event["type"] == "attempt_started":
            self._close()  # one that was killed is taken to have ended with its last event
            began = float(event["t"])
            attempt = AttemptUse(origin(event.get("job") or "", event["attempt"]), began, last=began)
            attempt.pool = event.get("mode") == "pool"
            self.attempts.append(attempt)
        elif self.attempts:
            self._apply_to(self.attempts[-1], event)

    def gpu_hours(self, now: float | None = None) -> float:
        """GPU-hours of all attempts, from the start of each worker's job to when it left, busy or not. Workers that
        are joined count up to `now` (Unix seconds), by default to the last event."""
        seconds = sum(attempt.gpu_seconds for attempt in self.attempts)
        for attempt in self.attempts[-1:]:
            end = now or attempt.last
            seconds += sum(max(0.0, end - since) * gpus for since, gpus in attempt.workers.values())
        return seconds / 3600

    def seconds(self, now: float | None = None) -> float:
        """Seconds in which attempts were at work, the last up to `now` (Unix seconds), by default to its last event."""
        done = sum(attempt.last - attempt.began for attempt in self.attempts)
        return done + sum(max(0.0, now - attempt.last) for attempt in self.attempts[-1:] if now)

    def _close(self) -> None:
        for attempt in self.attempts[-1:]:
            for worker in list(attempt.workers):
                attempt.leave(worker, attempt.last)

    def _apply_to(self, attempt: AttemptUse, event: Event) -> None:
        attempt.last = max(attempt.last, event["t"])
        if event["type"] == "reported":
            attempt.epochs += 1
        elif event["type"] == "worker_joined":
            attempt.joined += 1
            attempt.workers[event["worker"]] = (float(event["since"]), int(event["gpus"]))
        elif event["type"] == "worker_left":
            attempt.leave(event["worker"], event["t"])
        elif event["type"] == "attempt_ended":
            attempt.reason = str(event["reason"])
            self._close()
