"""Sweep directories as the driver writes them: by the real journal, with a clock that the test sets."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpo.records import Journal

ROOT = Path(__file__).resolve().parents[2]
START = 1_790_000_000.0  # Unix seconds of the first event
SPACE = [  # as hpo.space.space_to_json writes it
    {"name": "model.timm_image.checkpoint_name", "key": "model.timm_image.checkpoint_name", "default": "test_resnet",
     "when": {}, "options": ["test_resnet", "test_vit", "mobilenetv3_small_050", "mobilenetv3_small_050.lamb_in1k"]},
    {"name": "optim.lr", "key": "optim.lr", "default": 1e-3, "when": {}, "low": 1e-5, "high": 1.0, "log": True,
     "step": None, "integer": False},
    {"name": "optim.optim_type", "key": "optim.optim_type", "default": "adamw", "when": {},
     "options": ["adamw", "sgd"]},
]  # fmt: skip
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


@pytest.fixture(scope="session")
def sweep_writer() -> type[SweepWriter]:
    """For what is not made in the test's own directory."""
    return SweepWriter


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


TRAINED = """
name: small
data: {data}
metric: {metric}
hyperparameters:
  model.timm_image.checkpoint_name: {{choice: [test_vit, test_resnet]}}
  model.timm_image.pretrained: false
  model.timm_image.image_size: 32
  model.timm_image.train_transforms: [random_crop]
  optimization.learning_rate: {{loguniform: [1e-3, 3e-2], default: 5e-3}}
  optimization.max_epochs: 2
  env.batch_size: 16
  env.num_workers: 0
hyperparameter_tune_kwargs: {{num_trials: {trials}, num_to_keep: 2, scheduler: FIFO}}
"""


@pytest.fixture(scope="session")
def train_sweep() -> Callable[..., Path]:
    """train_sweep(folder, images, *options of prepare.py, metric=..., trials=...): the sweep's directory."""
    return _train_sweep


def _train_sweep(folder: Path, photos: Path, *prepare: str, metric: str, trials: int) -> Path:
    """A sweep of `trials` trials, a ViT and a CNN where two, really trained by this process; no Ray."""
    from hpo.cluster.winner import save_winner
    from hpo.config import load_sweep
    from hpo.layout import SweepDirectory, write_json
    from hpo.search.sweep import Sweep
    from hpo.search.trialfiles import TrialFiles
    from hpo.trial import Training
    from launch.prepare import main as prepare_main

    assert (
        prepare_main([str(photos), "--out", str(folder / "data"), "--encoding", "raw", "--size", "32", *prepare]) == 0
    )
    (folder / "small.yaml").write_text(TRAINED.format(data="data", metric=metric, trials=trials))
    config = load_sweep(folder / "small.yaml")
    directory = SweepDirectory(folder / "sweep")
    directory.root.mkdir()
    write_json(directory.resolved, config.to_json())
    sweep = Sweep(config, Journal(directory.journal), "a1")
    keys = {dimension.key: dimension.default for dimension in config.space.dimensions}
    files = TrialFiles(directory, dict(config.space.constants), keys)
    sweep.listener = lambda event: files.write(event, sweep.state)
    sweep.start_attempt(job="", host="here", nodes=1)
    while trial := sweep.next_trial():
        sweep.start_trial(trial.id, "here")
        with Training(config.trial(trial.params), config.data, directory.trial(trial.id)) as training:
            while not trial.finished:
                metrics = dict(training.run_epoch())
                path = f"trials/{trial.id}/{metrics.pop('checkpoint')}"
                sweep.report(trial.id, int(metrics.pop("epoch")), metrics, path, training.finished or "")
    sweep.end_attempt("all trials have ended")
    files.close()
    save_winner(directory, sweep.state, config)
    sweep._journal.close()
    return directory.root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/CLASS/*.jpg of the bundled photographs, 24 of each of three classes."""
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        for name in ("hat", "pants", "shoes"):
            (folder / name).mkdir()
            for i in range(1, 25):
                (folder / name / f"{i:03d}.jpg").write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
    return folder


@pytest.fixture(scope="session")
def trained_sweep(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The directory of a small sweep that was really trained; only to be read."""
    return _train_sweep(tmp_path_factory.mktemp("trained"), photos, metric="accuracy", trials=2)


@pytest.fixture(scope="session")
def exported(trained_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """What export.py wrote and said of each of its trials: '0000', with graphs beside it, and '0001'."""
    from launch.export import main

    graphs = ["--also", "torch-export"]
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        graphs += ["--also", "onnx"]
    found = {}
    for trial, options in (("0000", graphs), ("0001", [])):
        folder, said = tmp_path_factory.mktemp("exported") / "model", io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main([str(trained_sweep), "--trial", trial, "--out", str(folder), *options]) == 0, said.getvalue()
        found[trial] = folder, said.getvalue()
    return found


@pytest.fixture(scope="session")
def trained_regression(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The same where labels are two numbers: how bright an image is, and how much brighter above than below."""
    import cv2

    folder = tmp_path_factory.mktemp("regression")
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "bright", "slope"])
        for path in sorted(photos.rglob("*.jpg")):
            grey = cv2.imread(str(path), 0)
            half = len(grey) // 2
            writer.writerow([path, f"{grey.mean() + 0.5:.3f}", f"{grey[:half].mean() - grey[half:].mean() + 0.5:.3f}"])
    options = ("--task", "regression", "--label-column", "bright", "--label-column", "slope")
    return _train_sweep(folder, folder / "labels.csv", *options, metric="rmse", trials=1)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """call(main, *arguments): what a command in this process ends with, says on stdout, and on stderr."""

    def run(main: Any, *arguments: Any) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
