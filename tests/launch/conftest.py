"""Sweep directories as the driver writes them: by the real journal, with a clock that the test sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpo.records import Journal

START = 1_790_000_000.0  # Unix seconds of the first event
SPACE = [{"key": "model.timm_image.checkpoint_name"}, {"key": "optim.lr"}, {"key": "optim.optim_type"}]
SETTINGS = {
    "format": 1,
    "name": "clothing",
    "data": "/data/clothing",
    "metric": "val_accuracy",
    "mode": "max",
    "seed": 0,
    "max_epochs": 6,
    "num_trials": 8,
    "constants": {"optim.max_epochs": 6, "env.precision": "32", "optim.weight_decay": 1e-05},
    "space": SPACE,
    "tune": {"scheduler": "ASHA", "reduction_factor": 3},
}


class SweepWriter:
    """Plays the driver. Each event comes one second after the one before, unless `wait` moves the clock."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root, self.now = root, START
        self.settings = {**SETTINGS, **settings}
        root.mkdir(parents=True, exist_ok=True)
        (root / "resolved.json").write_text(json.dumps(self.settings))
        self.journal = Journal(root / "journal.jsonl")
        if not self.journal.events:
            header = {key: self.settings[key] for key in ("name", "metric", "mode", "seed", "max_epochs")}
            self.event("sweep", **header)

    def event(self, kind: str, /, **fields: Any) -> None:
        self.now += 1
        self.journal.append(kind, t=self.now, **fields)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def start_attempt(self, attempt: str = "a1") -> None:
        self.event("attempt_started", attempt=attempt, job="4711", host="head01", nodes=["node01", "node02"])

    def suggest(self, number: int, origin: str = "random", **params: Any) -> str:
        values = {"model": "test_resnet", "lr": 0.001, "optimizer": "adamw", **params}
        keys = {"model.timm_image.checkpoint_name": values["model"], "optim.lr": values["lr"]}
        trial = f"{number:04d}"
        keys["optim.optim_type"] = values["optimizer"]
        self.event("suggested", trial=trial, number=number, params=keys, origin=origin, note="")
        return trial

    def train(
        self, trial: str, values: list[float], *, first: int = 1, node: str = "node01", attempt: str = "a1"
    ) -> None:
        """Starts `trial` and reports `values`, one an epoch from epoch `first` on, ten seconds each."""
        self.event("started", trial=trial, attempt=attempt, node=node, epoch=first - 1)
        for epoch, value in enumerate(values, start=first):
            self.wait(9)
            metrics = {self.settings["metric"]: value, "train_loss": 1.0 / epoch}
            self.event("reported", trial=trial, attempt=attempt, epoch=epoch, metrics=metrics)

    def decide(self, trial: str, epoch: int, rung: int, action: str, value: float | None, rank: int, of: int,
               cutoff: float | None = None) -> None:  # fmt: skip
        self.event("decided", trial=trial, epoch=epoch, rung=rung, action=action, value=value, cutoff=cutoff, rank=rank,
                   of=of)  # fmt: skip

    def fail(self, trial: str, kind: str, cause: str, retry: bool) -> None:
        self.event("failed", trial=trial, attempt="a1", kind=kind, cause=cause, retry=retry)
        if not retry:
            self.finish(trial, "failed", f"{kind}: {cause}")

    def finish(self, trial: str, state: str, reason: str) -> None:
        self.event("finished", trial=trial, state=state, reason=reason)

    def end(self, reason: str = "all trials done") -> Path:
        self.event("attempt_ended", attempt="a1", reason=reason)
        self.event("sweep_ended", reason=reason)
        return self.close()

    def close(self) -> Path:
        self.journal.close()
        return self.root


def write_all_fates(root: Path, **settings: Any) -> SweepWriter:
    """A sweep in which each fate of a trial occurs once; its journal is still open and its attempt at work."""
    sweep = SweepWriter(root, **settings)
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, "default"), [0.30, 0.45, 0.52, 0.58, 0.60, 0.59])
    sweep.finish("0000", "completed", "max_epochs")
    sweep.train(sweep.suggest(1, lr=0.005, model="mobilenetv3_small_050"), [0.50, 0.61, 0.70, 0.74, 0.8125, 0.8625])
    sweep.decide("0001", 2, 1, "continue", 0.61, 1, 2)
    sweep.finish("0001", "completed", "max_epochs")
    sweep.train(sweep.suggest(2, lr=0.0001, optimizer="sgd"), [0.11, 0.41])
    sweep.decide("0002", 2, 1, "stop", 0.41, 3, 3, cutoff=0.52)
    sweep.finish("0002", "stopped", "ASHA at epoch 2 of 6: 0.41 was rank 3 of 3")
    sweep.train(sweep.suggest(3, lr=0.9), [float("nan")])
    sweep.decide("0003", 1, 1, "stop", None, 4, 4)
    sweep.finish("0003", "diverged", "val_accuracy was not finite at epoch 1")
    sweep.train(sweep.suggest(4, model="test_vit"), [])
    sweep.fail("0004", "out_of_memory", "CUDA out of memory:\n tried 4 GiB", retry=True)
    sweep.train("0004", [])
    sweep.fail("0004", "out_of_memory", "CUDA out of memory:\n tried 2 GiB", retry=False)
    sweep.train(sweep.suggest(5, "model", lr=0.01), [0.2, 0.3, 0.4])
    return sweep


@pytest.fixture
def new_sweep(tmp_path: Path) -> Callable[..., SweepWriter]:
    """Begins a sweep's directory below the test's own: new_sweep("folder", name=..., **settings)."""
    return lambda folder="sweep", /, **settings: SweepWriter(tmp_path / folder, **settings)


@pytest.fixture
def all_fates(tmp_path: Path) -> Path:
    """An ended sweep: completed twice, stopped, diverged, failed twice, and one that a second attempt took up again."""
    sweep = write_all_fates(tmp_path / "sweep", num_trials=6)
    sweep.wait(100_000)  # the first attempt was killed: the journal has no word of its end
    sweep.start_attempt("a2")
    sweep.train("0005", [0.42, 0.5, 0.55, 0.56], first=3, node="node02", attempt="a2")
    sweep.finish("0005", "completed", "max_epochs")
    return sweep.end()


@pytest.fixture
def running_sweep(tmp_path: Path) -> Path:
    """One trial of each fate, one at work, one waiting; the driver may write on at any moment."""
    sweep = write_all_fates(tmp_path / "running", num_trials=8)
    sweep.suggest(6, "model")
    return sweep.close()


@pytest.fixture
def no_write_permission() -> Callable[[Path], Any]:
    """`with no_write_permission(folder):` this process may only read below `folder`."""
    return _no_write_permission


@contextmanager
def _no_write_permission(root: Path) -> Iterator[None]:
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        yield
    finally:
        os.seteuid(user)
        for folder in folders:
            folder.chmod(0o755)
