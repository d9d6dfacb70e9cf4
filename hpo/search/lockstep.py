"""`deterministic: N`: a sweep of N trials at a time that goes the same way however fast its workers are.

Time is counted in ticks, and an epoch takes one, whatever it took in truth. Reports are taken in the order (tick,
trial): one that comes early waits, and its trial gives its place back until its turn has come. So what the searcher
and ASHA see, and when, depends on the trials' values alone. Who has one of the N slots, and the tick at which it is to
report, follow from the journal like all else. Fewer workers than slots only take longer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hpo.config import SweepConfig
from hpo.failures import may_retry
from hpo.records import Event, Journal, Trial
from hpo.search.sweep import Sweep, one_at_a_time


class LockstepSweep(Sweep):
    """A Sweep whose continuation is a function of its configuration, its trials' values and nothing else."""

    def __init__(self, config: SweepConfig, journal: Journal, attempt: str) -> None:
        self._slots = config.tune.deterministic or 1
        self._now = 0
        self._due: dict[str, int] = {}  # trial -> the tick of its next report; who is here has a slot
        self._arrived: dict[str, Callable[[], Any]] = {}  # trial -> how to take its report, when its turn has come
        self._ready: set[str] = set()  # have a slot and want a worker
        super().__init__(config, journal, attempt)

    def start_attempt(self, **about: Any) -> None:
        super().start_attempt(**about)
        self._waiting = []
        self._ready = set(self._due)
        self._fill()

    @one_at_a_time
    def next_trial(self) -> Trial | None:
        """Of those that have a slot the one whose turn comes first."""
        if self._ended or not self._ready:
            return None
        name = min(self._ready, key=self._turn)
        self._ready.remove(name)
        return self.state.trials[name]

    @one_at_a_time
    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: dict[str, Any],
        checkpoint: str = "",
        end: str = "",
        opened: float | None = None,
    ) -> bool:
        """Also False when the trial has to wait for others: its place is free meanwhile."""
        trial = self.state.trials[trial_id]
        if self._ended or trial.finished:
            return False
        report = functools.partial(super().report, trial_id, epoch, metrics, checkpoint, end, opened)
        if epoch in trial.first:  # trained again because a checkpoint was damaged: all was decided before
            return report()
        self._arrived[trial_id] = report
        self._advance()
        goes_on = trial.state == "running" and trial_id in self._ready
        if goes_on:
            self._ready.remove(trial_id)
        return goes_on

    @one_at_a_time
    def fail_trial(self, trial_id: str, kind: str, cause: str, final: bool = False) -> None:
        """That a trial runs again takes no tick; that it has failed for good is told at its turn."""
        trial = self.state.trials[trial_id]
        if self._ended or trial.finished or trial_id not in self._due or trial_id in self._arrived:
            return
        fail = functools.partial(super().fail_trial, trial_id, kind, cause, final)
        if not final and may_retry(kind, trial.epochs, trial.failures):
            fail()
            self._waiting.clear()
            self._ready.add(trial_id)
            return
        self._arrived[trial_id] = fail
        self._advance()

    def _advance(self) -> None:
        """Takes every report whose turn has come."""
        while self._due and not self._ended:
            name = min(self._due, key=self._turn)
            if name not in self._arrived:
                return
            self._arrived.pop(name)()
            if name in self._due:
                self._ready.add(name)
            self._fill()

    def _check_end(self) -> None:
        """A target that has been reached ends all trials at once, as it does when a sweep goes on from its journal."""
        super()._check_end()
        if self.state.ending and self.state.ending["rule"] == "target":
            for trial in list(self.state.unfinished.values()):
                self._settle(trial)

    def _fill(self) -> None:
        """A trial for each free slot, as long as there is one."""
        while len(self._due) < self._slots and (trial := super().next_trial()):
            self._ready.add(trial.id)

    def _turn(self, name: str) -> tuple[int, int]:
        return self._due[name], self.state.trials[name].number

    def _fold(self, event: Event) -> None:
        kind, name = event["type"], event.get("trial", "")
        new = kind == "reported" and event["epoch"] not in self.state.trials[name].first
        super()._fold(event)
        if kind == "suggested" or (kind == "reviewed" and event["action"] == "continue"):
            self._due[name] = self._now + 1
        elif new:
            self._now = self._due.get(name, self._now)
            self._due[name] = self._now + 1
        elif kind == "finished" or (kind == "decided" and event["action"] == "pause"):
            due = self._due.pop(name, self._now)
            self._now = max(self._now, due) if event.get("state") == "failed" else self._now
            self._ready.discard(name)
            self._arrived.pop(name, None)
