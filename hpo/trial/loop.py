"""A whole training in one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.trial.group import Group, RankedTraining
from hpo.trial.rankprocesses import RankProcesses
from hpo.trial.training import Training
from hpo.trialconfig import TrialConfig


@dataclass(frozen=True)
class TrialResult:
    """How a training ended. `reason` is Training.finished, or 'stopped' when the caller wanted no more."""

    reason: str
    epoch: int
    best_epoch: int
    best_value: float
    metrics: dict[str, Any] = field(default_factory=dict)  # of the last epoch


def train(
    config: TrialConfig, data: Path, directory: Path, report: Callable[[dict[str, Any]], bool], processes: int = 1
) -> TrialResult:
    """Trains until it is finished or `report`, called with each epoch's metrics, returns False.

    Goes on from what `directory` holds already; nothing is reported when that is all. With several `processes`, each
    with a GPU of its own where there are any, they train it together.

    Raises:
        AcceleratorError, WeightsError, TrialError, DataError: it cannot be trained as configured.
    """
    with contextlib.ExitStack() as opened:
        training: Training | RankedTraining
        if processes > 1:
            group = Group(RankProcesses(processes))
            opened.callback(group.end)
            training = RankedTraining(group, config, data, directory)
        else:
            training = Training(config, data, directory)
        opened.callback(training.close)
        reason = training.finished
        while not reason:
            goes_on = report(training.run_epoch())
            reason = training.finished or ("" if goes_on else "stopped")
        return TrialResult(reason, training.epoch, training.best_epoch, training.best_value, training.metrics)
