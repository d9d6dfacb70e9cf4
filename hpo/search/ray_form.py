"""The sweep as Ray Tune leaves an experiment on disk, so that ray.tune.ResultGrid reads it. Derived from the journal.

    FOLDER/ experiment_state-DATE.json   Ray's own record: trials, configurations, last results
            ID/ params.json result.json progress.csv

No checkpoints: what the trials learnt is exported by launch/export.py, or lies in the sweep's own trials/ID/checkpoint.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train._internal.storage import StorageContext
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial as RayTrial
from ray.tune.utils.serialization import TuneFunctionEncoder

from hpo.layout import write_json, write_text
from hpo.records import SweepState, Trial

_STATES = {"completed": RayTrial.TERMINATED, "stopped": RayTrial.TERMINATED, "diverged": RayTrial.TERMINATED,
           "failed": RayTrial.ERROR}  # fmt: skip


def write_ray_folder(state: SweepState, constants: Mapping[str, Any], folder: Path) -> None:
    """Fills `folder` with the experiment of `state`.

    A trial's configuration is the whole one, `constants` included. Moving the folder is fine: Ray finds what it needs
    relative to where it opens it.
    """
    records = []
    for trial in state.trials.values():
        config = {**constants, **trial.params}
        rows = _rows(trial, config)
        _write_files(folder / trial.id, config, rows)
        records.append(_ray_trial(trial, config, rows, folder).get_json_state())
    started = state.attempts[0]["t"] if state.attempts else time.time()
    record = {"trial_data": records, "runner_data": {}, "stats": {"start_time": started}}
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(started))
    (folder / ".validate_storage_marker").unlink(missing_ok=True)  # left by Ray's StorageContext
    write_text(folder / f"experiment_state-{stamp}.json", json.dumps(record, indent=2, cls=TuneFunctionEncoder))


def _rows(trial: Trial, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A result an epoch, in Ray's words and ours."""
    return [
        {
            "trial_id": trial.id,
            "training_iteration": epoch,
            **{name: value for name, value in trial.last[epoch].items() if name != "epoch"},
            "done": trial.finished and epoch == trial.epochs,
            "config": dict(config),
        }
        for epoch in sorted(trial.last)
    ]


def _write_files(folder: Path, config: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    write_json(folder / "params.json", dict(config))
    write_text(folder / "result.json", "".join(json.dumps(row) + "\n" for row in rows))
    if rows:
        names = [name for name in rows[-1] if name != "config"]
        with (folder / "progress.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def _ray_trial(trial: Trial, config: dict[str, Any], rows: list[dict[str, Any]], folder: Path) -> RayTrial:
    storage = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name, trial_dir_name=trial.id)
    found = RayTrial("slurmtune", stub=True, config=config, trial_id=trial.id, evaluated_params=dict(trial.params),
                     experiment_tag=trial.id, storage=storage)  # fmt: skip
    found.set_status(_STATES.get(trial.state, RayTrial.PENDING))
    setattr(found, "placement_group_factory", PlacementGroupFactory([{"CPU": 1}]))  # noqa: B010  Ray insists on one
    if rows:
        found.update_last_result(rows[-1])
    return found
