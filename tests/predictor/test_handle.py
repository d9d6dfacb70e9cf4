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
from hpo.cluster.jobs import read_jobs
from hpo.errors import ClusterError, UsageError
from hpo.layout import SweepDirectory, read_json
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


@pytest.mark.slurm
@pytest.mark.parametrize("mode", ["gang", "pool"])
def test_on_slurm_submitted_here_and_waited_for_elsewhere(mode, slurm, shared_tmp, split, small, monkeypatch):
    """Two hosts; the job runs when this process is not looking; another one waits for it and evaluates. What there is
    is what launch/submit.py makes: the same script, resolved.json and jobs."""
    monkeypatch.chdir(shared_tmp)
    handle = MultiModalPredictor(label="label", verbosity=0).fit(
        split[0],
        hyperparameters={**small, "optimization.learning_rate": Real(1e-3, 1e-2, log=True)},
        hyperparameter_tune_kwargs={"num_trials": 3, "resources_per_trial": {"num_cpus": 1, "num_gpus": 0}},
        cluster="slurm",
        slurm={"mode": mode, "partition": "gpu", "nodes": 2, "gpus_per_node": 0, "time": "00:05:00"},
        wait=False,
    )
    run = handle.directory
    resolved, jobs = read_json(run / "resolved.json"), read_jobs(SweepDirectory(run))
    assert [job.role for job in jobs] == {"gang": ["attempt"], "pool": ["attempt", "worker", "worker"]}[mode]
    assert (resolved["terms"].get("mode"), resolved["cluster"]) == (mode, "slurm")
    flags = ("--mode", mode, "--partition", "gpu", "--nodes", "2", "--gpus-per-node", "0", "--time", "00:05:00")
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(run / "sweep.yaml"), *flags, "--dry-run"]
    dry = subprocess.run([*command, "--run-dir", str(run) + "-x"], capture_output=True, text=True, check=True).stdout
    for job in jobs:
        assert slurm.script(job.job).replace(str(run), "RUN") in dry.replace(f"{run}-x", "RUN")
    assert slurm.state(handle.job) in ("PENDING", "RUNNING", "CONFIGURING")
    split[1].to_csv("test.csv", index=False)
    code = (
        "import sys; from hpo import MultiModalPredictor\n"
        "p = MultiModalPredictor.attach(sys.argv[1]).wait(timeout=400)\n"
        "print(len(p.leaderboard()), p.evaluate('test.csv'))"
    )
    command = [sys.executable, "-c", code, str(handle.directory)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=460, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 {'accuracy'")
    assert slurm.wait(handle.job) == "COMPLETED"
    state = SweepState(read_events(run / "journal.jsonl"))
    [attempt] = state.attempts
    assert attempt["nodes"] == (2 if mode == "gang" else 1)  # a pool's head alone, its workers join
    assert {trial.node for trial in state.trials.values()} <= {"node1", "node2", "node3"}
