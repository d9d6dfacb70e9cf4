"""A sweep in the files of other programs, each opened by the program itself: Optuna and TensorBoard."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from ruamel.yaml import YAML

from hpo.config import SweepConfig
from hpo.layout import SweepDirectory
from hpo.records import Journal, SweepState, read_events
from hpo.search.optuna_form import write_study
from hpo.search.sweep import Sweep
from hpo.search.trialfiles import TrialFiles
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig
from launch import export

SPACE = """
optim.optim_type: {choice: [sgd, adamw]}
optim.lr:
  - {loguniform: [1e-2, 1.0], when: {optim.optim_type: sgd}}
  - {loguniform: [1e-5, 1e-2], when: {optim.optim_type: adamw}}
optim.momentum: {uniform: [0.5, 0.99], when: {optim.optim_type: sgd}}
model.timm_image.train_transforms: {choice: [[resize], [random_crop, random_horizontal_flip]]}
optim.max_epochs: 9
"""


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDirectory:
    """A sweep of twelve trials with conditional keys, lists, a failure and a divergence, without training."""
    space = parse_space(YAML(typ="safe").load(SPACE))
    config = SweepConfig(
        name="toy", data=tmp_path, task="classification", metric="val_accuracy", mode="max", seed=3, space=space,
        tune=TuneConfig(num_trials=12),
    )  # fmt: skip
    directory = SweepDirectory(tmp_path / "sweep")
    directory.root.mkdir()
    directory.resolved.write_text(json.dumps(config.to_json()))
    sweep = Sweep(config, Journal(directory.journal), "a1")
    keys = {dimension.key: dimension.default for dimension in space.dimensions}
    files = TrialFiles(directory, dict(space.constants), keys)
    sweep.listener = lambda event: files.write(event, sweep.state)
    sweep.start_attempt(job="", host="here", nodes=1)
    while trial := sweep.next_trial():
        sweep.start_trial(trial.id, "here")
        if trial.number == 4:
            sweep.fail_trial(trial.id, "memory", "CUDA out of memory", final=True)
        for epoch in range(1, 10):
            value = float("nan") if trial.number == 5 else 0.5 - trial.params["optim.lr"] / 10 + 0.01 * epoch
            if trial.finished or not sweep.report(trial.id, epoch, {"val_accuracy": value, "train_loss": 1.0}):
                break
    sweep.end_attempt("all trials have ended")
    files.close()
    return directory


def test_optuna_opens_the_study_and_goes_by_it(sweep: SweepDirectory) -> None:
    config = SweepConfig.from_json(json.loads(sweep.resolved.read_text()))
    events = read_events(sweep.journal)
    write_study(sweep.optuna_journal, "toy", config.space, events)
    first = sweep.optuna_journal.read_bytes()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(sweep.optuna_journal)))
    study = optuna.load_study(study_name="toy", storage=storage)
    trials = study.trials
    assert len(trials) == 12
    assert trials[4].state.name == trials[5].state.name == "FAIL"
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED", "FAIL"}
    assert study.best_trial.value == max(trial.value for trial in trials if trial.state.name == "COMPLETE")
    suggested = [event["params"] for event in events if event["type"] == "suggested"]
    for trial, params in zip(trials, suggested, strict=True):
        assert trial.user_attrs["trial"] == f"{trial.number:04d}"
        assert trial.params["optim.optim_type"] == params["optim.optim_type"]
        assert trial.params["optim.lr" if "optim.lr" in trial.params else "optim.lr#2"] == params["optim.lr"]
        assert ("optim.momentum" in trial.params) == (params["optim.optim_type"] == "sgd")
        assert (
            json.loads(trial.params["model.timm_image.train_transforms"]) == params["model.timm_image.train_transforms"]
        )
    pruned = next(trial for trial in trials if trial.state.name == "PRUNED")
    reported = [e["metrics"]["val_accuracy"] for e in events
                if e["type"] == "reported" and e["trial"] == pruned.user_attrs["trial"]]  # fmt: skip
    assert [pruned.intermediate_values[epoch] for epoch in sorted(pruned.intermediate_values)] == reported
    assert study.ask().number == 12  # a person may go on with it by hand
    write_study(sweep.optuna_journal, "toy", config.space, events)
    timeless = re.compile(rb'"worker_id":"[^"]*"')
    assert timeless.sub(b"", sweep.optuna_journal.read_bytes()) == timeless.sub(b"", first)


def test_optuna_dashboard_shows_it(sweep: SweepDirectory) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    config = SweepConfig.from_json(json.loads(sweep.resolved.read_text()))
    write_study(sweep.optuna_journal, "toy", config.space, read_events(sweep.journal))
    application = dashboard.wsgi(dashboard._storage_url.get_storage(str(sweep.optuna_journal)))
    started: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/0", "QUERY_STRING": "after=0", "SERVER_NAME": "x",
               "SERVER_PORT": "80", "wsgi.url_scheme": "http"}  # fmt: skip
    body = b"".join(application(environ, lambda status, headers, info=None: started.append(status)))
    assert started == ["200 OK"]
    assert len(json.loads(body)["trials"]) == 12


def test_mlflow_has_every_trial(sweep: SweepDirectory, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "to mlflow"
    assert export.main([str(sweep.root), "--format", "mlflow", "--out", str(folder)]) == 0
    moved = folder.rename(tmp_path / "moved")
    client = MlflowClient(tracking_uri=f"sqlite:///{moved / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy")
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    state = SweepState(read_events(sweep.journal))
    assert set(runs) == set(state.trials)
    for trial in state.trials.values():
        run = runs[trial.id]
        assert run.info.status == ("FAILED" if trial.state in ("failed", "diverged") else "FINISHED")
        assert run.data.params["optim.lr"] == json.dumps(trial.params["optim.lr"])
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert {metric.step: metric.value for metric in history} == {
            epoch: values["val_accuracy"] for epoch, values in trial.last.items() if values["val_accuracy"] is not None
        }


def test_weights_and_biases_can_upload_it_later(sweep: SweepDirectory, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = tmp_path / "wandb runs"
    assert export.main([str(sweep.root), "--format", "wandb", "--out", str(folder)]) == 0
    state = SweepState(read_events(sweep.journal))
    found = {}
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        epochs, name = 0, ""
        for data in _leveldb_records(path.read_bytes()[7:]):
            record = Record.FromString(data)
            name = record.run.display_name or name
            epochs += any("val_accuracy" in (item.key, *item.nested_key) for item in record.history.item)
        found[name] = epochs
    valued = {
        trial.id: sum(values["val_accuracy"] is not None for values in trial.last.values())
        for trial in state.trials.values()
    }
    assert found == valued


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's form, which wandb's files have after seven bytes of their own: blocks of 32 KiB
    of fragments with checksum (4 bytes), length (2) and kind (1: whole, 2 first, 3 middle, 4 last)."""
    at, parts = 0, b""
    while at + 7 <= len(content):
        room = 32768 - (at + 7) % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_an_absent_tracker_is_named(sweep: SweepDirectory, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("hpo.export.trackers._PACKAGES", {"mlflow": "mlflow_that_is_not_here"})
    assert export.main([str(sweep.root), "--format", "mlflow", "--out", str(tmp_path / "x")]) == 2
    assert "pip install mlflow" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_tensorboard_shows_every_key_of_every_trial(sweep: SweepDirectory) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep.root / "trials"), "--port", "0",
               "--load_fast", "false"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            groups = _ask_until_complete(address)
        finally:
            server.terminate()
    by_trial = {group["sessions"][0]["name"]: group["hparams"] for group in groups}
    assert len(by_trial) == 11  # the one that failed before its first epoch has no events
    keys = {"optim.optim_type", "optim.lr", "optim.momentum", "model.timm_image.train_transforms"}
    params = {e["trial"]: e["params"] for e in read_events(sweep.journal) if e["type"] == "suggested"}
    assert {key for found in by_trial.values() for key in found} == keys
    for trial, found in by_trial.items():
        assert found["optim.lr"] == pytest.approx(params[trial]["optim.lr"])
        assert (found.get("optim.momentum") is None) == ("optim.momentum" not in params[trial])


def _ask_until_complete(address: str) -> list[dict]:
    """The session groups, when TensorBoard has read all runs."""
    asked = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
             "colParams": [], "startIndex": 0, "sliceSize": 100}  # fmt: skip
    found: list[dict] = []
    end = time.monotonic() + 60
    while len(found) < 11 and time.monotonic() < end:
        time.sleep(0.5)
        request = urllib.request.Request(
            f"{address}data/plugin/hparams/session_groups",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found = json.load(answer).get("sessionGroups", [])
        except OSError:
            continue
    return found
