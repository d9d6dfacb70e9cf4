"""What a trial keeps of an epoch, and goes on from: counters, metrics, and checkpoints that explain themselves."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import TrialError
from hpo.trial.checkpoint import Checkpoint, Store
from hpo.trial.compute import Compute
from hpo.trial.model import Input
from hpo.trial.task import Task
from hpo.trialconfig import TrialConfig

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_PACKAGES = ("torch", "timm", "accelerate")


@dataclass
class Progress:
    """What a trial goes on from, beside weights and optimiser."""

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = math.nan
    micro_batch: int = 0
    blocks: bool = False  # epochs mix blocks

    def book(self, epoch: int, value: float, mode: str) -> None:
        """Epoch `epoch` gave `value` of the metric."""
        self.epoch, sign = epoch, 1 if mode == "max" else -1
        if math.isfinite(value) and (math.isnan(self.best_value) or sign * value > sign * self.best_value):
            self.best_epoch, self.best_value = epoch, value


class Saves:
    """The checkpoints of the trial in `directory`, which trains `config` on `train`."""

    def __init__(self, directory: Path, config: TrialConfig, train: ShardSet, task: Task) -> None:
        self._directory, self._config, self._task = directory, config, task
        self._fingerprint, self._columns = train.fingerprint, train.columns
        self._store = Store(directory / "checkpoint", config.num_to_keep, config.mode)
        self._store.clear()

    def newest(self) -> Checkpoint | None:
        return self._store.newest()

    def newest_epoch(self) -> int:
        """Of any that is there, intact or not; 0 without one."""
        return self._store.newest_epoch()

    def name(self, checkpoint: Path) -> str:
        """As metrics have it: below the trial's directory."""
        return checkpoint.relative_to(self._directory).as_posix()

    def save(
        self, progress: Progress, metrics: Mapping[str, Any], timing: Mapping[str, float], compute: Compute, feed: Input
    ) -> str:
        """Keeps the epoch that `progress` is at; the checkpoint's name."""
        value = metrics[self._config.metric]
        state = {"progress": dataclasses.asdict(progress), "timing": dict(timing), **compute.state()}
        path = self._store.save(progress.epoch, value, compute.weights(), state, self._describe(metrics, feed))
        return self.name(path)

    def restore(self, checkpoint: Checkpoint, compute: Compute) -> tuple[Progress, dict[str, Any]]:
        """Puts weights, averages, optimiser and scaler back; the counters and the metrics of that epoch.

        Raises:
            TrialError: it was made from other data or another model.
        """
        meta = checkpoint.load_meta()
        known = meta["data_fingerprint"]
        if known != self._fingerprint:
            raise TrialError(
                f"{checkpoint.path} was trained on other data (fingerprint {known}, now {self._fingerprint}); "
                "give back the data of that time, or train in a new directory."
            )
        state = checkpoint.load_state()
        try:
            compute.load(checkpoint.load_weights(), state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason, config = str(error).splitlines()[0], self._config
            raise TrialError(
                f"{checkpoint.path} is not of {config.model.checkpoint_name} and {config.optim.optim_type} "
                f"({reason}); train in a new directory."
            ) from error
        finite = {name: math.nan if value is None else value for name, value in meta["metrics"].items()}
        return Progress(**state["progress"]), {**finite, **state["timing"], "checkpoint": self.name(checkpoint.path)}

    def _describe(self, metrics: Mapping[str, Any], feed: Input) -> dict[str, Any]:
        """meta.json: enough to use the weights without this program. No times: equal trainings give equal files."""
        config = self._config
        finite = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in metrics.items()}
        return {
            "metric": config.metric,
            "mode": config.mode,
            "metrics": finite,
            "model": config.model.checkpoint_name,
            "outputs": self._task.outputs,
            "input": dataclasses.asdict(feed),
            **({"columns": self._columns.to_json()} if self._columns else {}),
            **self._task.describe(),
            "config": config.to_flat(has_table=self._columns is not None),
            "seed": config.seed,
            "data_fingerprint": self._fingerprint,
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }
