"""The sweep as it runs: asks the searcher, asks ASHA, and writes each step down before it counts.

No Ray here: hpo.search.engine drives it from Ray Tune, a test or a simulation drives it by hand. Everything it
decides follows from the journal's prefix, so that opening the same journal again goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from hpo.config import SweepConfig
from hpo.failures import BLOCKING, LEARNT, may_retry
from hpo.fingerprint import search_prints
from hpo.records import Event, Journal, SweepState, Trial
from hpo.search.bayes import Suggestion, startup_trials, suggest
from hpo.search.ending import Ending
from hpo.search.evidence import Observation
from hpo.search.scheduler import Scheduler, Verdict, trial_epochs

Listener = Callable[[Event], None]
Method = TypeVar("Method", bound=Callable[..., Any])


def one_at_a_time(method: Method) -> Method:
    @functools.wraps(method)
    def locked(self: Sweep, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, locked)


class Sweep:
    """One attempt's view of a sweep: the fold of its journal, and the only writer of more."""

    def __init__(self, config: SweepConfig, journal: Journal, attempt: str) -> None:
        self.config, self._journal, self.attempt = config, journal, attempt
        self.listener: Listener = lambda event: None
        self._ended = False
        self._lock = threading.RLock()  # the driver's thread for signals may end the attempt at any moment
        self.state = SweepState()
        self._scheduler, self._ending = Scheduler(config), Ending(config)
        old = config.earlier.get("observations", [])
        self._seen = [Observation(known["params"], known["values"], earlier=True) for known in old]
        self._places: dict[str, int] = {}  # trial -> its place in what the searcher has seen
        self._waiting: list[str] = []
        self.blocked = ""  # what keeps every trial of this attempt from going on
        for event in journal.events:
            self._fold(event)
        if not self.state.header:
            self._write("sweep", name=config.name, metric=config.metric, mode=config.mode, seed=config.seed,
                        max_epochs=config.max_epochs, num_trials=config.tune.num_trials,
                        search=search_prints(config), data=config.fingerprint)  # fmt: skip

    # -- what an attempt does ---------------------------------------------------------------------------------------

    def start_attempt(self, **about: Any) -> None:
        self._write("attempt_started", attempt=self.attempt, **about)
        if (asked := self.state.num_trials) and asked != self.config.tune.num_trials:
            self._write("extended", num_trials=self.config.tune.num_trials, before=asked)
        for trial in list(self.state.unfinished.values()):
            self._decide(trial)  # a kill between a report and its decision: decide now
            self._settle(trial)
        self._check_end()
        for trial in list(self.state.unfinished.values()):
            self._settle(trial)
        self._waiting = [trial.id for trial in self.state.unfinished.values() if trial.state != "paused"]

    @one_at_a_time
    def note(self, kind: str, /, **fields: Any) -> None:
        """Writes down an event that concerns the attempt and no trial."""
        if not self._ended:
            self._write(kind, attempt=self.attempt, **fields)

    @one_at_a_time
    def end_attempt(self, reason: str, over: bool = False) -> None:
        """Closes the attempt in the journal; what trials report after it is not written any more. `over`: the sweep
        ends with it, although trials are unfinished."""
        if self._ended:
            return
        self._ended = True
        if not self.state.attempts or self.state.attempts[-1]["attempt"] != self.attempt:
            return  # asked to stop before it began
        self._write("attempt_ended", attempt=self.attempt, reason=reason)
        if self.done or over:
            self._write("sweep_ended", reason=reason)

    @property
    def done(self) -> bool:
        """Every trial that was asked for has ended, or all that began before a rule ended the sweep."""
        return not self.state.unfinished and self._complete

    @property
    def wanted_places(self) -> int:
        """Trials that have not ended, those to come included: more workers than that have nothing to do."""
        to_come = 0 if self._complete else self.config.tune.num_trials - len(self.state.trials)
        return len(self.state.unfinished) + to_come

    @property
    def _complete(self) -> bool:
        """No new trial is to come."""
        return self.state.ending is not None or len(self.state.trials) >= self.config.tune.num_trials

    @one_at_a_time
    def next_trial(self) -> Trial | None:
        """What a free worker does next: one that failed or was left unfinished, a paused trial that may go on, a new
        one. None: nothing before another trial has reported; when the sweep is `done`, nothing any more."""
        if self._ended:
            return None
        if self._waiting:
            return self.state.trials[self._waiting.pop(0)]
        ending = self.state.ending is not None
        if not ending and (promoted := self._promote()):
            return promoted
        if not self._complete:
            return self._suggest()
        if any(trial.state != "paused" for trial in self.state.unfinished.values()):
            return None
        if not ending and (promoted := self._promote(last=True)):
            return promoted
        for trial in list(self.state.unfinished.values()):
            self._review(self._scheduler.leftover(trial.id))
            self._settle(trial)
        return None

    @one_at_a_time
    def start_trial(self, trial_id: str, node: str) -> None:
        checkpoint = self.state.trials[trial_id].checkpoint
        if self._ended:
            return
        self._write(
            "started", trial=trial_id, attempt=self.attempt, node=node, epoch=checkpoint[0] if checkpoint else 0
        )

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
        """Takes one epoch's metrics and says whether the trial goes on at once; if not, `next_trial` says what does.

        Args:
            end: the trial's own reason to end here. opened: seconds that it took to begin, or to go on from a
                checkpoint, of the first epoch after that.
        """
        trial = self.state.trials[trial_id]
        if self._ended:
            return False
        more: dict[str, Any] = {"end": end} if end else {}
        more |= {} if opened is None else {"opened": round(opened, 3)}
        about = {"trial": trial_id, "epoch": epoch}
        events = [("reported", {**about, "attempt": self.attempt, "metrics": metrics, **more})]
        if checkpoint:  # in one piece with the report: where the trial goes on is never behind what is known of it
            events.append(("checkpointed", {**about, "path": checkpoint}))
        self._write_all(*events)
        self._decide(trial)
        self._settle(trial)
        self._check_end()
        self._settle(trial)  # the target may have been reached just now
        return trial.state == "running"

    @one_at_a_time
    def fail_trial(self, trial_id: str, kind: str, cause: str, final: bool = False) -> None:
        """`kind` is one of hpo.failures, which says whether the trial will be run again, unless this is `final`."""
        trial = self.state.trials[trial_id]
        if self._ended or trial.finished or trial.state == "paused":  # it has no need of the process that was lost
            return
        retry = not final and may_retry(kind, trial.epochs, trial.failures)
        self._write("failed", trial=trial_id, attempt=self.attempt, kind=kind, cause=cause, epoch=trial.epochs,
                    retry=retry)  # fmt: skip
        if kind in BLOCKING:
            self.blocked = cause
        if retry:
            self._waiting.append(trial_id)
        else:
            self._settle(trial)
            self._check_end()

    # -- what follows from the journal ------------------------------------------------------------------------------

    def _write(self, kind: str, /, **fields: Any) -> None:
        self._write_all((kind, fields))

    def _write_all(self, *events: tuple[str, dict[str, Any]]) -> None:
        for event in self._journal.append_all(*events):
            self._fold(event)
            self.listener(event)

    def _fold(self, event: Event) -> None:
        """The only place where state changes, in running as in replaying."""
        self.state.apply(event)
        self._scheduler.fold(event)
        self._ending.fold(event)
        self._observe(event)

    def _observe(self, event: Event) -> None:
        """Keeps what the searcher knows, at a cost that does not grow with the sweep."""
        if event["type"] == "suggested":  # the list of its values is the scheduler's own, and grows there
            self._places[event["trial"]] = len(self._seen)
            self._seen.append(Observation(event["params"], self._scheduler.observed.setdefault(event["trial"], [])))
        elif event["type"] == "reported" and self.config.objectives:
            place = self._places[event["trial"]]
            if not self._seen[place].costs:
                self._seen[place] = dataclasses.replace(self._seen[place], costs=self._scheduler.costs[event["trial"]])
        elif event["type"] == "finished" and event["state"] == "failed":
            place, trial = self._places[event["trial"]], self.state.trials[event["trial"]]
            barred = bool(trial.failures) and trial.failures[-1]["kind"] in LEARNT
            self._seen[place] = dataclasses.replace(self._seen[place], failed=True, barred=barred)

    @property
    def _first_num_trials(self) -> int:
        """As the sweep began: what the searcher does must not change when it is extended."""
        return int(self.state.header.get("num_trials") or self.config.tune.num_trials)

    def _suggest(self) -> Trial | None:
        """A new trial, written down; None: there is none now."""
        number, earlier = len(self.state.trials), self.config.earlier.get("points", [])
        suggestion = self._suggestion(number)
        if suggestion is None:
            return None
        trial_id, origin, note = f"{number:04d}", suggestion.origin, suggestion.note
        place = number - 1 - len(self.config.points)
        if origin == "user" and place >= 0:
            origin, note = "earlier", earlier[place]["from"]
        about: dict[str, Any] = {"params": suggestion.params, "origin": origin, "note": note}
        about |= {} if suggestion.rung is None else {"rung": suggestion.rung}
        about |= {"alone": True} if suggestion.alone else {}
        self._write("suggested", trial=trial_id, number=number, **about)
        return self.state.trials[trial_id]

    def _suggestion(self, number: int) -> Suggestion | None:
        tune, earlier = self.config.tune, self.config.earlier.get("points", [])
        return suggest(
            self.config.space,
            self._seen,
            number,
            seed=self.config.seed,
            maximise=self.config.mode == "max",
            startup=tune.startup_trials or startup_trials(self.config.space, self._first_num_trials),
            points=[*self.config.points, *(point["params"] for point in earlier)],
            model=tune.searcher == "bayes",
            objectives=1 + len(self.config.objectives),
        )

    def _promote(self, last: bool = False) -> Trial | None:
        """The paused trial that goes on now. Where rungs fall on the same epoch it may be paused again at once."""
        while verdict := self._scheduler.promotion(last):
            trial = self._review(verdict)
            self._decide(trial)
            if trial.state == "promoted":
                return trial
            self._settle(trial)
        return None

    def _review(self, verdict: Verdict) -> Trial:
        trial = self.state.trials[verdict["trial"]]
        self._write("reviewed", epoch=trial.decisions[-1]["epoch"], **verdict)
        return trial

    def _decide(self, trial: Trial) -> None:
        """The scheduler's word at each rung that the trial has come to."""
        for verdict in self._scheduler.arrivals(trial):
            self._write("decided", **verdict)

    def _settle(self, trial: Trial) -> None:
        """Writes down that a trial has ended, if anything in the journal says so."""
        if not trial.finished and trial.failures and trial.failures[-1].get("retry") is False:
            self._finish(trial, "failed", "{kind}: {cause}".format_map(trial.failures[-1]))
        if trial.finished or not trial.last:
            return
        last, epochs = trial.epochs, trial_epochs(self.config.space, trial)
        verdict = trial.decisions[-1] if trial.decisions else None
        if trial.last[last].get(self.config.metric) is None:
            self._finish(trial, "diverged", f"{self.config.metric} was not finite at epoch {last}")
        elif trial.end:
            self._finish(trial, "diverged" if trial.end.startswith("diverged") else "completed", trial.end)
        elif verdict and verdict["action"] == "stop" and verdict["epoch"] < epochs:
            best = f"{verdict['value']:.4g} was rank {verdict['rank']} of {verdict['of']}"
            self._finish(trial, "stopped", f"ASHA at epoch {verdict['epoch']} of {epochs}: {best}")
        elif last >= epochs:
            self._finish(trial, "completed", "max_epochs")
        elif self.state.ending and self.state.ending["rule"] == "target" and trial.state != "paused":
            self._finish(trial, "stopped", f"sweep ended at epoch {last} of {epochs}; {self.state.ending['reason']}")

    def _check_end(self) -> None:
        """Writes down that a rule ends the sweep."""
        if self.state.ending is None and (found := self._ending.rule()):
            self._write("ending", rule=found[0], reason=found[1])

    def _finish(self, trial: Trial, state: str, reason: str) -> None:
        self._write("finished", trial=trial.id, state=state, reason=reason)
