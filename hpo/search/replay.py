"""A sweep in a simulation: the Sweep that the driver runs, driven by hpo.search.simulation; nothing is written."""

from __future__ import annotations

import math
from typing import Any

from hpo.config import SweepConfig
from hpo.records import Journal
from hpo.search.scheduler import trial_epochs
from hpo.search.simulation import Job
from hpo.search.sweep import Sweep
from hpo.trialconfig import default_value


class UnwrittenJournal(Journal):
    """A journal that is kept in memory alone, for what never happened."""

    def __init__(self) -> None:
        self.events = []

    def _write(self, line: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class Replay:
    """The tuner of a sweep; `sweep.state` tells what became of its trials."""

    def __init__(self, config: SweepConfig) -> None:
        self.sweep = Sweep(config, UnwrittenJournal(), "simulated")
        self.sweep.start_attempt(job="", host="simulated", nodes=1)
        self._sign = -1.0 if config.mode == "max" else 1.0
        self._best: dict[Any, tuple[float, int]] = {}  # trial -> its least error, and the epoch of it

    def ask(self) -> Job | None:
        trial = self.sweep.next_trial()
        if trial is None:
            return None
        self.sweep.start_trial(trial.id, "simulated")
        config = self.sweep.config
        return Job(trial.id, {**config.space.constants, **trial.params}, trial_epochs(config.space, trial))

    def tell(self, key: Any, epoch: int, error: float, seconds: float) -> bool:
        value = self._sign * error if math.isfinite(error) else None
        metrics = {self.sweep.config.metric: value, "seconds": seconds}
        return self.sweep.report(key, epoch, metrics, end=self._patience(key, epoch, error))

    def _patience(self, key: Any, epoch: int, error: float) -> str:
        """Why the trial ends by itself, as hpo.trial.training would say it, or ''."""
        params = {**self.sweep.config.space.constants, **self.sweep.state.trials[key].params}
        patience = int(params.get("optim.patience", default_value("optim.patience")))
        if error < self._best.get(key, (math.inf, 0))[0]:
            self._best[key] = error, epoch
        return "patience" if epoch - self._best.get(key, (error, epoch))[1] >= patience else ""

    def end(self, key: Any, epoch: int, error: float) -> None:
        """Nothing: the Sweep ends a trial by itself."""
