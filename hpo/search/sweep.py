"""The sweep as it runs: asks the searcher, asks ASHA, and writes each step down before it counts.

No Ray here: hpo.search.engine drives it from Ray Tune, a test or a simulation drives it by hand. Everything it
decides follows from the journal's prefix, so that opening the same journal again goes on where it stopped.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from hpo.config import SweepConfig
from hpo.records import Event, Journal, SweepState, Trial
from hpo.search.asha import Rungs, place_rungs, rung_epochs
from hpo.search.bayes import Observation, startup_trials, suggest
from hpo.trialconfig import default_value

Listener = Callable[[Event], None]
Method = TypeVar("Method", bound=Callable[..., Any])


def _one_at_a_time(method: Method) -> Method:
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
        self._shares = place_rungs(
            config.max_epochs, config.tune.reduction_factor, _warmup_epochs(config), config.tune.grace_period
        )
        self._rungs = Rungs(self._shares, config.tune.reduction_factor, config.mode == "max")
        self._waiting: list[str] = []
        self._observed: dict[str, list[float | None]] = {}  # trial -> its value at each rung it reached
        for event in journal.events:
            self._fold(event)
        if not self.state.header:
            self._write("sweep", name=config.name, metric=config.metric, mode=config.mode, seed=config.seed,
                        max_epochs=config.max_epochs)  # fmt: skip

    # -- what an attempt does ---------------------------------------------------------------------------------------

    def start_attempt(self, **about: Any) -> None:
        self._write("attempt_started", attempt=self.attempt, **about)
        for trial in list(self.state.trials.values()):
            for epoch in sorted(trial.first):  # a kill between a report and its decision: decide now
                self._decide(trial, epoch)
            self._settle(trial)
        self._waiting = [trial.id for trial in self.state.trials.values() if not trial.finished]

    @_one_at_a_time
    def end_attempt(self, reason: str) -> None:
        """Closes the attempt in the journal; what trials report after it is not written any more."""
        if self._ended:
            return
        self._ended = True
        self._write("attempt_ended", attempt=self.attempt, reason=reason)
        if self.done:
            self._write("sweep_ended", reason=reason)

    @property
    def done(self) -> bool:
        """Every trial that was asked for has ended."""
        trials = self.state.trials.values()
        return len(trials) >= self.config.tune.num_trials and all(trial.finished for trial in trials)

    @_one_at_a_time
    def next_trial(self) -> Trial | None:
        """The next trial to run: first what an earlier attempt left unfinished, then new ones; None at the end."""
        if self._waiting:
            return self.state.trials[self._waiting.pop(0)]
        number = len(self.state.trials)
        if number >= self.config.tune.num_trials:
            return None
        tune = self.config.tune
        suggestion = suggest(
            self.config.space,
            self._observations(),
            number,
            seed=self.config.seed,
            maximise=self.config.mode == "max",
            startup=tune.startup_trials or startup_trials(self.config.space, tune.num_trials),
            points=self.config.points,
            model=tune.searcher == "bayes",
        )
        trial_id = f"{number:04d}"
        self._write("suggested", trial=trial_id, number=number, params=suggestion.params, origin=suggestion.origin,
                    note=suggestion.note)  # fmt: skip
        return self.state.trials[trial_id]

    @_one_at_a_time
    def start_trial(self, trial_id: str, node: str) -> None:
        checkpoint = self.state.trials[trial_id].checkpoint
        if self._ended:
            return
        self._write(
            "started", trial=trial_id, attempt=self.attempt, node=node, epoch=checkpoint[0] if checkpoint else 0
        )

    @_one_at_a_time
    def report(self, trial_id: str, epoch: int, metrics: dict[str, Any], checkpoint: str = "", end: str = "") -> bool:
        """Takes one epoch's metrics and says whether the trial goes on. `end`: the trial's own reason to end here."""
        trial = self.state.trials[trial_id]
        if self._ended:
            return False
        new = epoch not in trial.first
        self._write("reported", trial=trial_id, attempt=self.attempt, epoch=epoch, metrics=metrics)
        if checkpoint:
            self._write("checkpointed", trial=trial_id, epoch=epoch, path=checkpoint)
        if new:
            self._decide(trial, epoch)
        self._settle(trial, end)
        return not trial.finished

    @_one_at_a_time
    def fail_trial(self, trial_id: str, kind: str, cause: str, retry: bool) -> None:
        """`kind` names the class of the failure; with `retry` the trial will be started again from its checkpoint."""
        if self._ended or self.state.trials[trial_id].finished:  # losing the process of a trial that is done is no loss
            return
        self._write("failed", trial=trial_id, attempt=self.attempt, kind=kind, cause=cause, retry=retry)
        if not retry:
            self._write("finished", trial=trial_id, state="failed", reason=f"{kind}: {cause}")

    # -- what follows from the journal ------------------------------------------------------------------------------

    def _write(self, kind: str, /, **fields: Any) -> None:
        event = self._journal.append(kind, **fields)
        self._fold(event)
        self.listener(event)

    def _fold(self, event: Event) -> None:
        """The only place where state changes, in running as in replaying."""
        self.state.apply(event)
        if event["type"] == "decided":
            self._observed.setdefault(event["trial"], []).append(event["value"])
            if event["of"] > len(self._rungs.values[event["rung"] - 1]):  # not yet entered: we are replaying
                self._rungs.enter(event["rung"] - 1, event["value"])

    def _decide(self, trial: Trial, epoch: int) -> None:
        """ASHA's word at each rung that lies at this epoch; FIFO only records the value for the searcher."""
        for rung, at in enumerate(rung_epochs(self._shares, self._trial_epochs(trial))):
            if at == epoch and len(self._observed.get(trial.id, [])) == rung:
                value = self._value_until(trial, epoch)
                decision = self._rungs.enter(rung, value)
                asha = self.config.tune.scheduler == "ASHA" or value is None
                self._write(
                    "decided",
                    trial=trial.id,
                    epoch=epoch,
                    rung=rung + 1,
                    value=value,
                    rank=decision.rank,
                    of=decision.of,
                    cutoff=decision.cutoff,
                    action=decision.action if asha else "continue",
                )

    def _settle(self, trial: Trial, end: str = "") -> None:
        """Writes down that a trial has ended, if anything in the journal or `end` says so."""
        if trial.finished or not trial.last:
            return
        last, epochs = trial.epochs, self._trial_epochs(trial)
        verdict = trial.decisions[-1] if trial.decisions else None
        if trial.last[last].get(self.config.metric) is None:
            self._finish(trial, "diverged", f"{self.config.metric} was not finite at epoch {last}")
        elif verdict and verdict["action"] == "stop" and verdict["epoch"] < epochs:
            best = f"{verdict['value']:.4g} was rank {verdict['rank']} of {verdict['of']}"
            self._finish(trial, "stopped", f"ASHA at epoch {verdict['epoch']} of {epochs}: {best}")
        elif last >= epochs:
            self._finish(trial, "completed", "max_epochs")
        elif end:
            self._finish(trial, "diverged" if end.startswith("diverged") else "completed", end)

    def _finish(self, trial: Trial, state: str, reason: str) -> None:
        self._write("finished", trial=trial.id, state=state, reason=reason)

    def _trial_epochs(self, trial: Trial) -> int:
        key = "optim.max_epochs"
        return int(trial.params.get(key, self.config.space.constants.get(key, default_value(key))))

    def _value_until(self, trial: Trial, epoch: int) -> float | None:
        """The best value up to `epoch` as first reported; None when this epoch's own is missing or not finite."""
        if trial.first[epoch].get(self.config.metric) is None:
            return None
        values = [
            m[self.config.metric]
            for e, m in trial.first.items()
            if e <= epoch and m.get(self.config.metric) is not None
        ]
        return max(values) if self.config.mode == "max" else min(values)  # type: ignore[type-var]

    def _observations(self) -> list[Observation]:
        return [
            Observation(trial.params, self._observed.get(trial.id, []), failed=trial.state == "failed")
            for trial in self.state.trials.values()
        ]


def _warmup_epochs(config: SweepConfig) -> float:
    """Epochs until the learning rate peaks, of the longest warm-up that the space permits."""
    key = "optim.warmup_steps"
    ends = [d.domain for d in config.space.dimensions if d.key == key]
    value = float(config.space.constants.get(key, default_value(key)))
    for domain in ends:
        value = max(value, *(domain.options if hasattr(domain, "options") else [domain.high]))
    if value < 1:
        return value * config.max_epochs
    batch = int(config.space.constants.get("env.batch_size", default_value("env.batch_size")))
    return value / max(1, config.train_samples // batch)
