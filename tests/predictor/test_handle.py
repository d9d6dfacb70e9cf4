"""Fits that go on without us, are cut off, and are found again from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpo import MultiModalPredictor, Real
from hpo.errors import ClusterError, UsageError
from hpo.records import SweepState, read_events

ROOT = Path(__file__).resolve().parents[2]
LONG = {"optimization.max_epochs": 400, "optim.patience": 400}


def begin(split, here, small, **options):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    return predictor.fit(split[0], hyperparameters={**LONG, **small}, save_path=here / "run", wait=False, **options)


def epochs(handle, count, timeout=60):
    """Waits for so many epochs of the one trial."""
    end = time.monotonic() + timeout
    while True:
        trials = SweepState(read_events(handle.directory / "journal.jsonl")).trials
        if trials and trials["0000"].epochs >= count:
            return trials["0000"]
        assert time.monotonic() < end, (handle.directory / "submitit" / "single.log").read_text()
        time.sleep(0.1)


def test_another_process_attaches_and_stops_it(split, here, small):
    handle = begin(split, here, {**small, **LONG})
    assert handle.status() in ("waiting", "running")
    epochs(handle, 3)
    with pytest.raises(UsageError, match="is still at work; MultiModalPredictor.attach"):
        MultiModalPredictor.load(handle.directory)
    with pytest.raises(ClusterError, match="is not over after 0.1 s; wait again"):
        handle.wait(timeout=0.1)
    code = (
        "import sys; from hpo import MultiModalPredictor\n"
        "h = MultiModalPredictor.attach(sys.argv[1]); print(h.status(), h.job)\n"
        "h.cancel(); p = h.wait(timeout=60); print(h.status(), p.fit_summary()['best_epoch'])"
    )
    command = [sys.executable, "-c", code, str(handle.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"running {handle.job}"
    assert second.startswith("unfinished ")
    assert "launch/submit.py --resume" in done.stderr
    assert handle.status() == "unfinished"
    assert (
        SweepState(read_events(handle.directory / "journal.jsonl")).attempts[-1]["ended"]["reason"]
        == "stopped on request"
    )
    assert MultiModalPredictor.load(handle.directory, verbosity=0).evaluate(split[1])


@pytest.mark.ray
def test_killed_outright_its_best_epoch_is_there_and_it_goes_on(split, here, small):
    """AutoMM ends with FileNotFoundError: config.yaml is written at the very end only."""
    handle = begin(split, here, {**small, "optimization.max_epochs": 30, "env.accelerator": "cpu"})
    trial = epochs(handle, 3)
    os.kill(int(handle.job), signal.SIGKILL)
    predictor = handle.wait(timeout=60)
    outcome = predictor.fit_summary()
    [told] = predictor.trials()
    assert told["state"] == "running"  # as far as anybody wrote down
    assert told["value"] == max(value for _, value in told["curve"])
    assert outcome["best_epoch"] == told["best_epoch"] <= len(told["curve"])
    assert trial.epochs <= len(told["curve"])
    scores = predictor.evaluate(split[1])

    command = [sys.executable, str(ROOT / "launch" / "submit.py"), "--resume", str(handle.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    again = MultiModalPredictor.load(handle.directory, verbosity=0)
    assert again.leaderboard()["epochs"][0] == 30 > len(told["curve"])
    assert again.fit_summary()["trials"] == {"completed": 1}
    assert set(again.evaluate(split[1])) == set(scores)


def test_time_is_limited(split, here, small):
    """On a folder of class folders, as it is."""
    folder = Path(split[0]["image"].iloc[0]).parents[1]
    predictor = MultiModalPredictor(label="label", verbosity=0)
    began = time.monotonic()
    predictor.fit(folder, hyperparameters={**small, **LONG, "optimization.max_epochs": 100000}, time_limit=25)
    assert predictor.leaderboard()["state"][0] == "interrupted"
    assert MultiModalPredictor.attach(predictor.path).status() == "ended"
    assert predictor.fit_summary()["val_accuracy"] >= predictor.leaderboard()["val_accuracy"][0]
    assert time.monotonic() - began > 15  # it used its time
    assert len(predictor.predict(folder)) == 72
    assert set(predictor.evaluate(folder)) == {"accuracy"}


@pytest.mark.ray
def test_a_search_ends_by_itself_when_its_time_is_over(split, here, small):
    """Nobody waits for it, and it was begun from a thread that is not the main one."""
    predictor = MultiModalPredictor(label="label", verbosity=0)
    searched = {"optimization.learning_rate": Real(1e-3, 1e-2), "optimization.max_epochs": 100000}
    values = {**small, **searched, "env.accelerator": "cpu"}
    with ThreadPoolExecutor(1) as thread:
        handle = thread.submit(
            predictor.fit, split[0], hyperparameters=values, hyperparameter_tune_kwargs="auto", time_limit=20,
            save_path=here / "run", wait=False,
        ).result()  # fmt: skip
    end = time.monotonic() + 300
    while handle.status() != "ended":
        assert time.monotonic() < end, (handle.directory / "journal.jsonl").read_text()
        time.sleep(0.2)
    state = SweepState(read_events(handle.directory / "journal.jsonl"))
    assert state.attempts[-1]["ended"]["reason"].startswith("time_limit of ")
    if state.incumbent():  # on a machine that is not too busy for one epoch
        assert handle.wait().evaluate(split[1])


def test_without_a_slurm_it_says_so_before_anything_is_made(split, here, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ClusterError, match="sbatch is not on this machine's PATH; .*local"):
        MultiModalPredictor(label="label", verbosity=0).fit(split[0], cluster="slurm", slurm={"partition": "gpu"})
    assert not list(here.iterdir())
