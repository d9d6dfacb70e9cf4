"""Each trial's files under Ray Tune's own names, so that TensorBoard, pandas and ResultGrid users are at home.

Derived from the journal, event by event; nothing reads them back. params.json, result.json (a JSON line an epoch),
progress.csv, events.out.tfevents.* with the searched keys as HParams.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.layout import SweepDirectory, write_json
from hpo.records import Event, SweepState


class TrialFiles:
    """Listens to a Sweep and keeps the files of its trials up to date."""

    def __init__(
        self, directory: SweepDirectory, constants: dict[str, Any], keys: Mapping[str, Any] | None = None
    ) -> None:
        """`keys`: every key that is searched, with any of its values; a trial may leave out conditional ones."""
        self._directory, self._constants, self._keys = directory, constants, dict(keys or {})
        self._boards: dict[str, Any] = {}

    def write(self, event: Event, state: SweepState) -> None:
        trial = state.trials.get(event.get("trial", ""))
        if trial is None:
            return
        folder = self._directory.trial(trial.id)
        if event["type"] == "suggested":
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(folder / "params.json", {**self._constants, **trial.params})
        elif event["type"] == "reported":
            self._report(folder, trial.id, event, trial.params, state.metric)
        elif event["type"] == "finished" and trial.id in self._boards:
            board = self._boards.pop(trial.id)
            board.file_writer.add_summary(hparam_summaries({}, {}, "")[2])
            board.close()

    def close(self) -> None:
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def _report(self, folder: Path, name: str, event: Event, params: dict[str, Any], metric: str) -> None:
        row = {"trial_id": name, "training_iteration": event["epoch"], "timestamp": int(event["t"]), **event["metrics"]}
        with (folder / "result.json").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**row, "config": params}) + "\n")
        progress = folder / "progress.csv"
        new = not progress.exists()
        with progress.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(row)
            writer.writerow(row.values())
        board = self._boards.get(name) or self._open_board(folder, name, params, metric)
        for key, value in event["metrics"].items():
            if isinstance(value, (int, float)):
                board.add_scalar(key, value, event["epoch"])

    def _open_board(self, folder: Path, name: str, params: dict[str, Any], metric: str) -> Any:
        board = _summary_writer()(logdir=str(folder), flush_secs=30)
        board.add_text("params", json.dumps(params))
        for summary in hparam_summaries({**params, **self._keys}, params, metric)[:2]:
            board.file_writer.add_summary(summary)
        self._boards[name] = board
        return board


def _summary_writer() -> Any:
    """tensorboardX's class. It imports torch where there is one: two seconds and 200 MB that this process has no use
    for, while every trial waits for its first verdict."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` an ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def hparam_summaries(keys: Mapping[str, Any], params: Mapping[str, Any], metric: str) -> tuple[Any, Any, Any]:
    """What TensorBoard's HParams tab wants of a trial: the experiment, the start and the end of the session.

    TensorBoard takes the columns from the first run that it finds, so every trial names all `keys`, also those that it
    does not have.
    """
    from tensorboardX.summary import hparams

    experiment, _, _ = hparams({name: _board_value(value) for name, value in keys.items()}, {metric: 0.0})
    _, start, end = hparams({name: _board_value(value) for name, value in params.items()}, {})
    return experiment, start, end


def _board_value(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
