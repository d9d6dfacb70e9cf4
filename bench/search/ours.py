"""slurmtune's own tuner: the Sweep that the driver runs, fed by hand, with a real journal in memory-backed storage."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from simulator import Job
from tasks import Task

from hpo.config import SweepConfig, TuneConfig
from hpo.records import Journal
from hpo.search.sweep import Sweep
from hpo.space import Choice, Dimension, Range, Space

_EPOCHS = "optim.max_epochs"
_WITHOUT_END = 10**6


def space_of(task: Task, default: dict[str, Any]) -> Space:
    """The task's knobs as a slurmtune space; the knob that is the number of epochs gets slurmtune's name for it."""
    dimensions = []
    for knob in task.knobs:
        key = _EPOCHS if knob.name == task.epochs_knob else knob.name
        domain = Choice(knob.options) if knob.options else Range(knob.low, knob.high, knob.log, None, knob.integer)
        dimensions.append(Dimension(key, key, domain, default[knob.name], {}))
    constants = {} if task.epochs_knob else {_EPOCHS: task.max_epochs}
    return Space(tuple(dimensions), {**constants, "optim.warmup_steps": 0.1 if task.epochs_knob else 0.0})


class Ours:
    """`default` is the first point: for a fair start a random one, as peers have it. `earlier`: see hpo.warmstart.
    `sweep`: another class, see variants.py."""

    def __init__(
        self, task: Task, seed: int, default: dict[str, Any], earlier: dict[str, Any] | None = None,
        sweep: type[Sweep] = Sweep, **tune: Any,
    ) -> None:  # fmt: skip
        self.task = task
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self._journal = Journal(self.folder / "journal.jsonl")
        config = SweepConfig(
            name=task.name, data=Path("none"), task="classification", metric="error", mode="min", seed=seed,
            space=space_of(task, default), tune=TuneConfig(num_trials=_WITHOUT_END, **tune), earlier=earlier or {},
        )  # fmt: skip
        self.sweep = sweep(config, self._journal, "simulated")
        self.sweep.start_attempt(job="", host="simulated", nodes=1)

    def ask(self) -> Job | None:
        trial = self.sweep.next_trial()
        if trial is None:
            return None
        self.sweep.start_trial(trial.id, "simulated")
        config = {name if name != _EPOCHS else self.task.epochs_knob: v for name, v in trial.params.items()}
        return Job(trial.id, config, self.task.max_epochs)

    def tell(self, key: str, epoch: int, error: float, seconds: float) -> bool:
        return self.sweep.report(key, epoch, {"error": error, "seconds": seconds})

    def end(self, key: str, epoch: int, error: float) -> None:
        """Nothing: the Sweep ends a trial by itself."""

    def close(self) -> None:
        self._journal.close()
        shutil.rmtree(self.folder)
