"""A sweep as runs of an experiment tracker, without network: MLflow's database file, Weights & Biases' offline runs.

    FOLDER/mlflow.db               `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`
    FOLDER/wandb/offline-run-*     `wandb sync FOLDER/wandb/offline-run-*`, from a machine with network

A run a trial: the whole configuration, each metric at each epoch, state, reason and origin as tags. Derived from the
journal and never read back; the packages are the person's own and are asked for by name when missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.records import SweepState, Trial

_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}
_MLFLOW_STATES = {"completed": "FINISHED", "stopped": "FINISHED", "diverged": "FAILED", "failed": "FAILED",
                  "running": "RUNNING"}  # fmt: skip  # the others wait
_BATCH = 1000  # metrics that MLflow takes in one call
_LONGEST = 6000  # characters of an MLflow parameter


def require_tracker(form: str) -> None:
    """Raises:
    UsageError: the tracker's package is not installed.
    """
    package = _PACKAGES[form]
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"--format {form} needs the package {package}, which is not here; pip install {package}.")


def write_tracker(form: str, name: str, state: SweepState, constants: Mapping[str, Any], folder: Path) -> None:
    """Fills `folder` with one run for each trial of the sweep `name`; `constants` complete each configuration."""
    (write_mlflow if form == "mlflow" else write_wandb)(name, state, constants, folder)


def write_mlflow(name: str, state: SweepState, constants: Mapping[str, Any], folder: Path) -> None:
    """An MLflow tracking database with the experiment `name`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment(name, artifact_location=(folder / "artifacts").as_uri())
    for trial in state.trials.values():
        started, ended = _milliseconds(trial)
        run = client.create_run(experiment, start_time=started, run_name=trial.id, tags=_tags(trial)).info.run_id
        params = [Param(key, _text(value)[:_LONGEST]) for key, value in {**constants, **trial.params}.items()]
        metrics = [
            Metric(key, value, ended, epoch)
            for epoch, values in trial.last.items()
            for key, value in _numbers(values).items()
        ]
        for first in range(0, max(len(metrics), 1), _BATCH):
            client.log_batch(run, metrics[first : first + _BATCH], () if first else params)
        if trial.finished:
            client.set_terminated(run, _MLFLOW_STATES[trial.state], ended)
        else:
            client.update_run(run, _MLFLOW_STATES.get(trial.state, "SCHEDULED"))


def write_wandb(name: str, state: SweepState, constants: Mapping[str, Any], folder: Path) -> None:
    """Offline runs of Weights & Biases in project `name`, grouped as one sweep; nothing about this machine."""
    import wandb

    settings = wandb.Settings(
        mode="offline", silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
        x_disable_meta=True, x_disable_machine_info=True,
    )  # fmt: skip
    for trial in state.trials.values():
        run = wandb.init(
            project=name, group=name, name=trial.id, id=f"{name}-{trial.id}", dir=folder, settings=settings,
            config={**constants, **trial.params}, tags=[trial.state, trial.origin], reinit="finish_previous",
        )  # fmt: skip
        for epoch, values in trial.last.items():
            run.log(_numbers(values), step=epoch)
        if trial.best:
            run.summary[f"best_{state.metric}"], run.summary["best_epoch"] = trial.best[1], trial.best[0]
        run.summary.update(_tags(trial))
        run.finish(exit_code=1 if trial.state in ("failed", "diverged") else 0)
    wandb.teardown()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Of what an epoch reported; hosts and metrics that were not finite are left out."""
    return {key: float(value) for key, value in values.items() if isinstance(value, (int, float)) and key != "epoch"}


def _tags(trial: Trial) -> dict[str, str]:
    tags = {"trial": trial.id, "state": trial.state, "reason": trial.reason, "origin": trial.origin, "node": trial.node}
    return {key: value for key, value in tags.items() if value}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _milliseconds(trial: Trial) -> tuple[int, int]:
    """When it started and ended; of a trial that has not, now."""
    started = trial.started_at or time.time()
    return int(started * 1000), int((trial.ended_at or started) * 1000)
