"""A trial's epoch as Ray Tune's searchers and schedulers are told it: its metrics under Tune's own further keys."""

from __future__ import annotations

import math
from typing import Any

from hpo.records import Trial


def result_of(trial: Trial, epoch: int, done: bool = False) -> dict[str, Any]:
    """The result of `epoch` as first reported, so that a sweep that goes on tells it the same.

    `training_iteration` is the epoch, `time_total_s` the seconds of all epochs up to it; a metric that was not finite
    is NaN.
    """
    metrics = {name: math.nan if value is None else value for name, value in trial.first[epoch].items()}
    seconds = [float(m.get("seconds") or 0) for e, m in sorted(trial.first.items()) if e <= epoch]
    return {
        **metrics,
        "training_iteration": epoch,
        "epoch": epoch,
        "trial_id": trial.id,
        "done": done,
        "time_this_iter_s": seconds[-1],
        "time_total_s": sum(seconds),
        "iterations_since_restore": epoch,
        "time_since_restore": sum(seconds),
        "config": dict(trial.params),
    }
