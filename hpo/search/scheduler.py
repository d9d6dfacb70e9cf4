"""Which trial goes on: ASHA or FIFO as a fold of the journal. The Sweep asks here and writes the answers down.

observed     trial -> its value at each rung that it reached
arrivals     what is to be said of a trial that has come to one rung or more
promotion    which paused trial a free worker takes up again
leftover     what is to be said of one that still waits when the sweep ends
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from hpo.config import SweepConfig
from hpo.records import Event, Trial
from hpo.search.asha import Decision, Rungs, place_rungs, rung_epochs
from hpo.search.costs import Costs
from hpo.space import Choice, Space
from hpo.trialconfig import default_value

_WORTH = 0.1  # of the time to the next rung, that taking a paused trial up again may cost in `auto`
_EPOCHS = "optim.max_epochs"

Verdict = dict[str, Any]  # the fields of a `decided` or `reviewed` event


class Scheduler:
    """ASHA's rungs of one sweep. With `scheduler: FIFO` all go on, and values are only recorded for the searcher."""

    def __init__(self, config: SweepConfig) -> None:
        tune = config.tune
        self._config, self._asha = config, tune.scheduler == "ASHA"
        self._shares = place_rungs(config.max_epochs, tune.reduction_factor, warmup_epochs(config), tune.grace_period)
        self._rungs = Rungs(self._shares, tune.reduction_factor, config.mode == "max", bool(config.objectives))
        self._costs = Costs()
        self.observed: dict[str, list[float | None]] = {}
        self.costs: dict[str, tuple[float, ...]] = {}  # trial -> the objectives beside the metric

    def fold(self, event: Event) -> None:
        """Takes in one event of the journal, at a cost that does not grow with the journal."""
        kind = event["type"]
        if kind == "decided":
            self.observed.setdefault(event["trial"], []).append(event["value"])
            trial = event["trial"]
            self._rungs.enter(event["rung"] - 1, trial, event["value"], event["action"], self.costs.get(trial, ()))
        elif kind in ("reviewed", "finished"):
            self._rungs.release(event["trial"])
        elif kind == "reported":
            self._costs.fold(event)
            if self._config.objectives and event["trial"] not in self.costs:
                found = (event["metrics"].get(name) for name in self._config.objectives)
                self.costs[event["trial"]] = tuple(math.inf if cost is None else cost for cost in found)

    def arrivals(self, trial: Trial) -> Iterator[Verdict]:
        """A verdict for each rung that `trial` has reached and was not judged at, up to the first that holds it up.
        Each must be folded before the next is asked for.

        A trial whose metric is no longer finite counts as worst at the rung that it would have come to next; one that
        ended by itself comes to all the others with what it has.
        """
        epochs = rung_epochs(self._shares, trial_epochs(self._config.space, trial))
        reached = max(trial.first, default=0)
        diverged = reached > 0 and self._metric(trial, reached) is None
        while not trial.decisions or trial.decisions[-1]["action"] == "continue":
            rung = len(self.observed.get(trial.id, []))
            if rung >= len(epochs) or (epochs[rung] > reached and not diverged and not trial.end):
                return
            value = None if diverged else self._value_until(trial, epochs[rung])
            pause = not trial.end and rung + 1 < len(epochs) and self._pauses(epochs[rung + 1] - epochs[rung])
            decision = self._rungs.judge(rung, value, pause, self.costs.get(trial.id, ()))
            if not self._asha and value is not None:
                decision = dataclasses.replace(decision, action="continue")
            yield _verdict(trial.id, min(reached, epochs[rung]), rung + 1, value, decision)

    def promotion(self, last: bool) -> Verdict | None:
        """The paused trial that is to go on now, if any. `last`: nobody else will come to a rung."""
        found = self._rungs.next_promotion(last)
        return self._review(*found) if found else None

    def leftover(self, trial: str) -> Verdict:
        return self._review(trial, self._rungs.review(trial))

    def _review(self, trial: str, decision: Decision) -> Verdict:
        values = self.observed[trial]
        return {"trial": trial, "rung": len(values), "value": values[-1], **vars(decision)}

    def _pauses(self, leg: int) -> bool:
        """Whether who is not among the best is paused, or stopped for good; `leg`: epochs to the next rung."""
        kind = self._config.tune.asha_type
        if kind != "auto" or self._config.tune.deterministic:  # measured times are no ground for a decision there
            return kind == "promotion"
        cost = self._costs.resuming()
        return cost is not None and cost <= _WORTH * leg

    def _value_until(self, trial: Trial, epoch: int) -> float | None:
        """The best value up to `epoch` as first reported; of a trial that reports less often, its next one."""
        known = [e for e in trial.first if e <= epoch] or [min(trial.first)]
        values = [value for e in known if (value := self._metric(trial, e)) is not None]
        best = max if self._config.mode == "max" else min
        return best(values, default=None)

    def _metric(self, trial: Trial, epoch: int) -> float | None:
        return trial.first[epoch].get(self._config.metric)


def _verdict(trial: str, epoch: int, rung: int, value: float | None, decision: Decision) -> Verdict:
    return {"trial": trial, "epoch": epoch, "rung": rung, "value": value, **vars(decision)}


def trial_epochs(space: Space, trial: Trial) -> int:
    """Epochs of the whole training of `trial`."""
    return int(trial.params.get(_EPOCHS, space.constants.get(_EPOCHS, default_value(_EPOCHS))))


def warmup_epochs(config: SweepConfig) -> float:
    """Epochs until the learning rate peaks, of the longest warm-up that the space permits."""
    key = "optim.warmup_steps"
    value = float(config.space.constants.get(key, default_value(key)))
    for dimension in config.space.dimensions:
        if dimension.key == key:
            domain = dimension.domain
            value = max(value, *(domain.options if isinstance(domain, Choice) else [domain.high]))
    if value < 1:
        return value * config.max_epochs
    batch = int(config.space.constants.get("env.batch_size", default_value("env.batch_size")))
    return value / max(1, config.train_samples // batch)
