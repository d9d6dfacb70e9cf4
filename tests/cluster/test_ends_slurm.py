"""What ends a job on a real SLURM before its sweep has ended, and what comes then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweeps import ROOT

from hpo.cluster.jobs import read_jobs
from hpo.layout import SweepDirectory
from hpo.records import SweepState, read_events
from hpo.usage import Usage

pytestmark = [pytest.mark.slurm, pytest.mark.faults]
SETTINGS = ("--set", "scheduler=FIFO", "--set", "optim.patience=99999", "--gpus-per-node", "2")
WHOLE_HOST = ("--gpus-per-node", "4", "--cpus-per-task", "8")
ENDLESS = 50000  # epochs
WAIT_S = 400


def start(submit, path, run, *flags, **options):
    done = submit(path, *SETTINGS, *flags, "--run-dir", run, "--json", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["job"]


def resume(submit, run, *flags):
    done = submit("--resume", run, *flags, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["job"]


def log_of(run, job):
    return (run / "submitit" / f"{job}_0_log.out").read_text()


def state_of(run):
    return SweepState(read_events(run / "journal.jsonl"))


@pytest.fixture
def at_work(wait_for_event):
    """at_work(run, n): waits until the n-th attempt has brought an epoch; returns the state."""

    def brings(run, number):
        attempts = Usage(read_events(run / "journal.jsonl")).attempts
        return len(attempts) == number and attempts[-1].epochs > 1

    return lambda run, number: wait_for_event(run, lambda _: brings(run, number), WAIT_S)


def assert_unbroken(run, before):
    """Each trial has every epoch up to its last, and what was known before is known still."""
    state = state_of(run)
    for trial in state.trials.values():
        assert sorted(trial.last) == list(range(1, trial.epochs + 1))
    for trial in before.trials.values():
        assert {e: state.trials[trial.id].first[e] for e in trial.first} == trial.first
    return state


def exit_code(slurm, job):
    """State and code of a job, or of one of its steps, as accounting has them, which takes a moment."""
    end = time.monotonic() + 60
    while True:
        whole = () if "." in job else ("-X",)
        found = slurm.run("sacct", *whole, "-n", "-P", "-j", job, "-o", "State,ExitCode").stdout.splitlines()
        if (found and not found[-1].endswith("|0:0")) or time.monotonic() > end:
            return found[-1]
        time.sleep(0.5)


def preempt(slurm):
    slurm.run("sbatch", "-p", "gpu", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    return time.time()


def ended(wait_for_event, run, attempt):
    return wait_for_event(run, lambda s: s.attempts[attempt]["ended"], WAIT_S).attempts[attempt]["ended"]


def with_fault(folder, fault):
    """An environment in which every epoch of the first two trials suffers it."""
    (folder / "counts").mkdir()
    plan = {trial: {"fault": fault, "epoch": "any", "times": 10**6} for trial in ("0000", "0001")}
    inject = str(ROOT / "tests" / "faults" / "inject")
    counts = str(folder / "counts")
    return {**os.environ, "FAULT_PLAN": json.dumps(plan), "FAULT_COUNTS": counts, "PYTHONPATH": inject}


def test_preempted_where_the_site_requeues_and_where_it_cancels(
    slurm, shared_tmp, write_sweep, submit, at_work, wait_for_event, measure
):
    """SIGTERM alone, each time."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=ENDLESS, per_class=40)
    job = start(submit, path, run, "--partition", "preempt", *WHOLE_HOST, "--time", "40")
    before = at_work(run, 1)
    t0 = preempt(slurm)
    event = ended(wait_for_event, run, 0)
    assert "SIGTERM" in event["reason"]
    measure(fault="preemption, requeued", seconds=event["t"] - t0)
    at_work(run, 2)
    assert {attempt["job"] for attempt in assert_unbroken(run, before).attempts} == {job}

    slurm.run("scontrol", "update", "partition=preempt", "PreemptMode=CANCEL")
    try:
        t0 = preempt(slurm)
        measure(fault="preemption, cancelled", seconds=ended(wait_for_event, run, 1)["t"] - t0)
        slurm.wait(job, timeout=90)
    finally:
        slurm.run("scontrol", "update", "partition=preempt", "PreemptMode=REQUEUE")
    job = resume(submit, run, "--partition", "gpu")
    at_work(run, 3)
    assert submit("--stop", run).returncode == 0
    assert_unbroken(run, before)
    assert exit_code(slurm, job) == "FAILED|75:0"


def test_usr2_a_refused_requeue_and_scancel(slurm, shared_tmp, write_sweep, submit, at_work, wait_for_event, measure):
    """All of them leave a sweep that can be gone on with."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=ENDLESS, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--nodes", "2", "--time", "40")
    before = at_work(run, 1)
    t0 = time.time()
    slurm.run("scancel", "--signal=USR2", job)  # as SLURM sends it before the walltime, and some sites at a preemption
    event = ended(wait_for_event, run, 0)
    assert "SIGUSR2" in event["reason"]
    measure(fault="USR2, requeued", seconds=event["t"] - t0)
    at_work(run, 2)
    assert {attempt["job"] for attempt in assert_unbroken(run, before).attempts} == {job}

    slurm.run("scontrol", "update", f"jobid={job}", "requeue=0")
    slurm.run("scancel", "--signal=USR2", job)
    assert slurm.wait(job, timeout=120) == "FAILED"
    assert "SLURM refused to requeue" in log_of(run, job)
    assert exit_code(slurm, job) == "FAILED|75:0"

    command = [sys.executable, ROOT / "launch" / "submit.py", "--resume", run, "--wait"]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    at_work(run, 3)
    job = read_jobs(SweepDirectory(run), "attempt")[-1].job
    t0 = time.time()
    slurm.run("scancel", job)
    measure(fault="scancel", seconds=ended(wait_for_event, run, 2)["t"] - t0)
    assert slurm.wait(job, timeout=90) == "CANCELLED"
    assert "exit code 75" in log_of(run, job)
    assert exit_code(slurm, f"{job}.batch") == "FAILED|75:0"  # of the job itself accounting says CANCELLED and 0
    table, said = waiting.communicate(timeout=WAIT_S)
    assert waiting.returncode == 75, said
    assert "SIGTERM, by scancel or a preemption" in said
    assert f"--resume {run}" in said
    assert "can be resumed" in table
    resume(submit, run)
    at_work(run, 4)
    assert submit("--stop", run).returncode == 0
    assert_unbroken(run, before)


def test_the_supervisor_of_rank_0_is_killed(slurm, shared_tmp, write_sweep, submit, at_work, measure):
    """Nobody says how the attempt ended: the batch script has the job queued again."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=ENDLESS, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--time", "40")
    before = at_work(run, 1)
    t0 = time.time()
    found = slurm.processes(before.attempts[0]["host"], "submitit.core._submit")
    [pid] = [pid for pid, line in found if Path(line.split()[0]).name.startswith("python")]  # srun names it too
    os.kill(pid, signal.SIGKILL)
    state = at_work(run, 2)
    measure(fault="supervisor killed", seconds=state.attempts[1]["t"] - t0)
    assert f"the attempt's supervisor was killed; job {job} is queued again" in log_of(run, job)
    assert {attempt["job"] for attempt in assert_unbroken(run, before).attempts} == {job}
    assert submit("--stop", run).returncode == 0


def test_a_sweep_that_needs_four_jobs_of_two_minutes(slurm, shared_tmp, write_sweep, submit, measure):
    """Epochs of 6 s, 44 of each of two trials: it goes through by itself, drained on our own clock, or when SLURM sends
    USR2, which may be a minute early."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=44)
    t0 = time.time()
    job = start(submit, path, run, "--partition", "gpu", "--time", "2", timeout=240, env=with_fault(shared_tmp, "slow"))
    end = time.monotonic() + 1800
    while slurm.state(job) not in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"):
        assert time.monotonic() < end
        time.sleep(1)
    state = state_of(run)
    assert slurm.state(job) == "COMPLETED", log_of(run, job)
    measure(fault="walltime", seconds=time.time() - t0, attempts=len(state.attempts))
    assert state.ended
    assert len(state.attempts) >= 4
    assert {attempt["job"] for attempt in state.attempts} == {job}
    reasons = [attempt["ended"]["reason"] for attempt in state.attempts[:-1]]
    assert all("walltime" in reason or "SIGUSR2" in reason for reason in reasons)
    assert all(sorted(trial.last) == list(range(1, 45)) for trial in state.trials.values())


def test_three_attempts_without_progress_and_a_limit_on_attempts(slurm, shared_tmp, write_sweep, submit, measure):
    """Trials that hang: the job ends itself with the reason, and a person's --resume does so at the limit."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=3)
    environ = with_fault(shared_tmp, "hang")
    t0 = time.time()
    job = start(submit, path, run, "--partition", "gpu", "--time", "1", env=environ)
    assert slurm.wait(job, timeout=900) == "FAILED"
    state = state_of(run)
    measure(fault="no progress", seconds=time.time() - t0, attempts=len(state.attempts))
    assert len(state.attempts) == 3
    assert "3 attempts in a row brought no new epoch" in state.attempts[-1]["ended"]["reason"]
    assert "3 attempts in a row brought no new epoch" in log_of(run, job)
    assert exit_code(slurm, job) == "FAILED|75:0"

    done = submit("--resume", run, "--max-attempts", "4", "--json", env=environ)
    job = json.loads(done.stdout)["job"]
    assert slurm.wait(job, timeout=300) == "FAILED"
    state = state_of(run)
    assert len(state.attempts) == 4
    assert "max_attempts 4 is reached" in state.attempts[-1]["ended"]["reason"]
    refused = submit("--resume", run)
    assert refused.returncode == 2
    assert "max_attempts 4 is reached" in refused.stderr


def test_gpu_hours_end_a_sweep_in_order(slurm, shared_tmp, write_sweep, submit, results, measure):
    """Nearly two minutes on two GPUs are 0.06 GPU-hours, over several jobs."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=ENDLESS, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--time", "2", "--max-gpu-hours", "0.06")
    assert slurm.wait(job, timeout=600) == "COMPLETED", log_of(run, job)
    state = state_of(run)
    measure(fault="GPU-hours", seconds=None, attempts=len(state.attempts))
    assert "max_gpu_hours 0.06 is spent" in state.ended["reason"]
    assert len(state.attempts) == 2
    assert results(run)["best"] == state.incumbent().id
    assert (run / "best" / "weights.safetensors").is_file()
    refused = submit("--resume", run)
    assert refused.returncode == 2
    assert "max_gpu_hours 0.06 is spent" in refused.stderr
