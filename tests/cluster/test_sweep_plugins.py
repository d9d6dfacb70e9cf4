"""A searcher and a scheduler of Ray Tune in real sweeps: by class in a sweep file, and as a person's instances."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hpo.cluster.processes import end_processes, find_processes
from hpo.layout import SweepDirectory
from hpo.records import SweepState, read_events
from hpo.results.read import read_results
from hpo.results.why import explain_trial

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
TUNE = """
hyperparameter_tune_kwargs:
  searcher: {class: ray.tune.search.optuna.OptunaSearch}
  scheduler: {class: ray.tune.schedulers.HyperBandScheduler, max_t: 6, reduction_factor: 3}
  num_trials: 6
  num_to_keep: 1
  resources_per_trial: {num_cpus: 1}
"""


def state_of(run):
    return SweepState(read_events(run / "journal.jsonl"))


@pytest.fixture
def sweep_file(tmp_path, write_sweep):
    path = write_sweep(tmp_path, epochs=6)
    text = path.read_text()
    path.write_text(text[: text.index("hyperparameter_tune_kwargs")] + TUNE.strip() + "\n")
    return path


def test_hyperband_pauses_stops_and_goes_on_after_a_kill(tmp_path, sweep_file, submit, wait_for_event, results):
    """SIGKILL for everything while some trials are paused; --resume tells the journal to both again and finishes."""
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(sweep_file), "--cluster", "local"]
    process = subprocess.Popen([*command, "--run-dir", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_event(run, lambda s: any(t.state == "paused" for t in s.trials.values()))
    marks = [json.loads(path.read_text())["temp"] for path in run.glob("attempts/*/head.json")]
    process.kill()
    end_processes({pid for mark in [*marks, str(run)] for pid in find_processes(mark)})
    process.communicate()
    before = state_of(run)
    assert len(before.trials) == 6  # HyperBand fills its brackets first

    done = submit("--resume", run)
    assert done.returncode == 0, done.stderr
    state = state_of(run)
    assert state.ended
    assert len(state.trials) == 6
    assert Counter(t.origin for t in state.trials.values()) == {"default": 1, "searcher": 5}
    assert {t.id: t.params for t in state.trials.values()} == {t.id: t.params for t in before.trials.values()}
    stopped = [t for t in state.trials.values() if t.state == "stopped"]
    assert stopped
    assert all(t.reason.startswith("HyperBandScheduler") for t in stopped)
    assert all(sorted(t.first) == list(range(1, t.epochs + 1)) for t in state.trials.values())
    longest = max(state.trials.values(), key=lambda t: t.epochs)
    assert (longest.epochs, longest.state) == (6, "completed")
    went_on = [e for e in read_events(run / "journal.jsonl") if e["type"] == "started" and e["epoch"] > 0]
    assert went_on, "nobody went on from a checkpoint"
    assert results(run)["status"] == "ended"
    found = read_results(SweepDirectory(run))
    told = "\n".join(line for row in found.rows for line in explain_trial(found, row))
    assert "HyperBandScheduler paused it at epoch" in told
    assert "OptunaSearch suggested it." in told


def test_what_cannot_work_is_refused_at_submission(tmp_path, sweep_file, submit):
    text = sweep_file.read_text()
    sweep_file.write_text(text.replace("HyperBandScheduler, max_t: 6", "HyperBandScheduler, max_tee: 6"))
    done = submit(sweep_file, "--cluster", "local", "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "HyperBandScheduler has no argument 'max_tee'. Did you mean 'max_t'?" in done.stderr
    assert not (tmp_path / "run").exists()


def test_instances_from_python(tmp_path, write_sweep, monkeypatch):
    """A person's own scheduler, which only their program knows, and OptunaSearch reach the driver and are obeyed."""
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search.optuna import OptunaSearch

    from hpo import MultiModalPredictor, Real

    class OneEpochForOdd(FIFOScheduler):
        def on_trial_result(self, tune_controller, trial, result):
            return self.STOP if int(trial.trial_id) % 2 else self.CONTINUE

    write_sweep(tmp_path)  # for its data
    monkeypatch.chdir(tmp_path)
    search = {"searcher": OptunaSearch(seed=2), "scheduler": OneEpochForOdd(), "num_trials": 4}
    predictor = MultiModalPredictor(verbosity=0).fit(
        tmp_path / "data",
        hyperparameters={
            "model.timm_image.checkpoint_name": "test_resnet",
            "model.timm_image.pretrained": False,
            "optim.lr": Real(1e-4, 1e-2, log=True, default=1e-3),
            "optim.max_epochs": 3,
            "env.batch_size": 32,
        },
        hyperparameter_tune_kwargs={**search, "resources_per_trial": {"num_cpus": 1}},
        save_path=tmp_path / "run",
    )
    trials = {trial["trial"]: trial for trial in predictor.trials()}
    assert [len(trials[name]["curve"]) for name in sorted(trials)] == [3, 1, 3, 1]
    assert trials["0001"]["reason"] == "stopped at epoch 1 of 3: OneEpochForOdd"
    for name in ("searcher.pickle", "scheduler.pickle"):
        assert stat.S_IMODE((tmp_path / "run" / "secrets" / name).stat().st_mode) == 0o600
    predictor.save(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.pickle"))
