"""A fit on SLURM: submitted by one process, waited for by another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo import MultiModalPredictor, Real
from hpo.cluster.jobs import read_jobs
from hpo.layout import SweepDirectory, read_json
from hpo.records import SweepState, read_events

ROOT = Path(__file__).resolve().parents[2]


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
