"""A sweep of which Ray Tune's searcher or scheduler, or both, stand in the place of ours.

They keep their state themselves, so the journal is told to fresh ones when a sweep goes on. Trial 0, the person's
points and those of earlier sweeps come first with them too; rungs are recorded, so that our searcher knows values
under Ray's scheduler. No Ray here: see hpo.search.ray_searcher and hpo.search.ray_scheduler.
"""

from __future__ import annotations

from typing import Any, Protocol

from hpo.config import SweepConfig
from hpo.records import Event, Journal, Trial
from hpo.search.bayes import Suggestion
from hpo.search.sweep import Sweep, one_at_a_time
from hpo.space import Params


class Searcher(Protocol):
    """`suggest`: the next configuration, None when there is none now; raises Exhausted at the end."""

    name: str

    def suggest(self, trial_id: str) -> Params | None: ...
    def follow(self, event: Event, trial: Trial | None) -> None: ...


class Scheduler(Protocol):
    """`ahead`: trials to be suggested before the first runs; `verdict`: continue, pause or stop; `dropped`: trials that
    it ended while they waited."""

    name: str
    ahead: int

    def follow(self, event: Event, trial: Trial | None) -> None: ...
    def take(self, trial_id: str) -> None: ...
    def verdict(self, trial_id: str) -> str: ...
    def dropped(self) -> list[str]: ...
    def choose(self) -> str | None: ...


class Exhausted(Exception):  # noqa: N818  no error: all was tried
    """A searcher has nothing more to suggest."""


class GuidedSweep(Sweep):
    """A Sweep with a `searcher`, a `scheduler` or both of Ray Tune's; None: ours."""

    def __init__(
        self,
        config: SweepConfig,
        journal: Journal,
        attempt: str,
        searcher: Searcher | None,
        scheduler: Scheduler | None,
    ) -> None:
        self._guides = [guide for guide in (searcher, scheduler) if guide]
        self._asked, self._chooser, self._exhausted = searcher, scheduler, False
        self._at_work: set[str] = set()  # handed out to be run
        super().__init__(config, journal, attempt)

    def start_attempt(self, **about: Any) -> None:
        super().start_attempt(**about)
        for trial in list(self.state.unfinished.values()):
            self._obey(trial)

    @one_at_a_time
    def next_trial(self) -> Trial | None:
        if self._chooser is None or self._ended:
            return super().next_trial()
        return self._chosen_trial(self._chooser)

    @one_at_a_time
    def report(self, trial_id: str, epoch: int, *arguments: Any, **others: Any) -> bool:
        trial = self.state.trials[trial_id]
        if trial.finished:  # by the scheduler, while it was at work on another one
            return False
        new = epoch not in trial.first
        goes_on = super().report(trial_id, epoch, *arguments, **others)
        if new and not self._ended:
            self._obey(trial)
        return goes_on and trial.state == "running"

    @property
    def _complete(self) -> bool:
        return self._exhausted or super()._complete

    def _suggestion(self, number: int) -> Suggestion | None:
        ours = 1 + len(self.config.points) + len(self.config.earlier.get("points", []))
        if self._asked is None or number < ours:
            return super()._suggestion(number)
        try:
            params = self._asked.suggest(f"{number:04d}")
        except Exhausted:
            self._exhausted = True
            return None
        return None if params is None else Suggestion(params, "searcher", self._asked.name)

    def _fold(self, event: Event) -> None:
        super()._fold(event)
        if event["type"] == "finished" or event.get("action") == "pause":
            self._at_work.discard(event["trial"])
        for guide in self._guides:
            guide.follow(event, self.state.trials.get(event.get("trial", "")))

    def _chosen_trial(self, scheduler: Scheduler) -> Trial | None:
        """Of as many suggested trials as the scheduler wants to see, and of paused ones."""
        while not self._complete and self._count_pending() < scheduler.ahead and self._suggest():
            pass
        chosen = None if self.state.ending else scheduler.choose()
        self._finish_dropped(scheduler)
        if chosen is None and not self._at_work:  # it would wait for ever, or a rule ends the sweep
            chosen = next(iter(self.state.unfinished), None)
        if chosen is None:
            return None
        scheduler.take(chosen)
        self._at_work.add(chosen)
        return self.state.trials[chosen]

    def _count_pending(self) -> int:
        waiting = [t for t in self.state.unfinished.values() if t.state in ("suggested", "interrupted")]
        return sum(trial.id not in self._at_work for trial in waiting)

    def _obey(self, trial: Trial) -> None:
        """Writes down what the scheduler said of the trial's newest epoch, and whom else it ended."""
        scheduler = self._chooser
        if scheduler is None:
            return
        action = scheduler.verdict(trial.id)
        if not trial.finished and action != "continue":
            self._write("judged", trial=trial.id, epoch=trial.epochs, action=action, by=scheduler.name)
            if action == "stop":
                self._finish(trial, "stopped", scheduler.name)
        self._finish_dropped(scheduler)

    def _finish_dropped(self, scheduler: Scheduler) -> None:
        for trial in [self.state.trials[name] for name in scheduler.dropped()]:
            if not trial.finished:
                waiting = ", while it was paused" if trial.state == "paused" else ""
                self._finish(trial, "stopped", f"{scheduler.name}{waiting}")
