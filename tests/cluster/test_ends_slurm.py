"""What ends a job on a real SLURM before its sweep has ended, and what comes then."""

from __future__ import annotations

import json
import time

import pytest

from hpo.records import SweepState, read_events

pytestmark = [pytest.mark.slurm, pytest.mark.faults]
SETTINGS = ("--set", "scheduler=FIFO", "--set", "optim.patience=9999", "--gpus-per-node", "2")
WHOLE_HOST = ("--gpus-per-node", "4", "--cpus-per-task", "8")


def start(submit, path, run, *flags):
    done = submit(path, *SETTINGS, *flags, "--run-dir", run, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["job"]


def log_of(run, job):
    return (run / "submitit" / f"{job}_0_log.out").read_text()


def state_of(run):
    return SweepState(read_events(run / "journal.jsonl"))


def assert_whole(run, before, epochs):
    state = state_of(run)
    assert state.ended
    assert all(sorted(trial.last) == list(range(1, epochs + 1)) for trial in state.trials.values())
    for trial in before.trials.values():
        assert {e: state.trials[trial.id].first[e] for e in trial.first} == trial.first
    return state


def exit_code(slurm, job):
    """As accounting has it, which takes a moment."""
    end = time.monotonic() + 30
    while not (found := slurm.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode").stdout.split()):
        assert time.monotonic() < end
        time.sleep(0.5)
    return found[-1]


def test_preempted_by_sigterm_alone(slurm, shared_tmp, write_sweep, submit, wait_for_event, measure):
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=250, per_class=40)
    job = start(submit, path, run, "--partition", "preempt", *WHOLE_HOST, "--time", "20")
    before = wait_for_event(run, lambda s: any(t.epochs > 2 for t in s.trials.values()))
    t0 = time.time()
    slurm.run("sbatch", "-p", "gpu", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    state = wait_for_event(run, lambda s: s.attempts[0]["ended"], timeout=60)
    measure(fault="preemption, SIGTERM", seconds=state.attempts[0]["ended"]["t"] - t0, lost_epochs=1)
    assert "SIGTERM" in state.attempts[0]["ended"]["reason"]
    assert slurm.wait(job, timeout=500) == "COMPLETED", log_of(run, job)
    assert len(assert_whole(run, before, 250).attempts) == 2


def test_preempted_where_the_site_cancels(slurm, shared_tmp, write_sweep, submit, wait_for_event):
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=250, per_class=40)
    slurm.run("scontrol", "update", "partition=preempt", "PreemptMode=CANCEL")
    try:
        job = start(submit, path, run, "--partition", "preempt", *WHOLE_HOST, "--time", "20")
        before = wait_for_event(run, lambda s: any(t.epochs > 2 for t in s.trials.values()))
        slurm.run("sbatch", "-p", "gpu", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        slurm.wait(job, timeout=90)
    finally:
        slurm.run("scontrol", "update", "partition=preempt", "PreemptMode=REQUEUE")
    assert state_of(run).attempts[0]["ended"]
    again = json.loads(submit("--resume", run, "--partition", "gpu", "--json").stdout)["job"]
    assert slurm.wait(again, timeout=500) == "COMPLETED"
    assert_whole(run, before, 250)


def test_usr2_saves_and_queues_the_job_again(slurm, shared_tmp, write_sweep, submit, wait_for_event):
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=250, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--nodes", "2", "--time", "20")
    before = wait_for_event(run, lambda s: any(t.epochs > 2 for t in s.trials.values()))
    slurm.run("scancel", "--signal=USR2", job)  # as SLURM sends it before the walltime, and some sites at a preemption
    assert "SIGUSR2" in wait_for_event(run, lambda s: s.attempts[0]["ended"], 60).attempts[0]["ended"]["reason"]
    wait_for_event(run, lambda s: len(s.attempts) == 2, timeout=120)
    assert slurm.wait(job, timeout=500) == "COMPLETED"
    assert_whole(run, before, 250)


def test_scancel_and_a_refused_requeue_leave_a_sweep_that_can_be_resumed(
    slurm, shared_tmp, write_sweep, submit, wait_for_event, measure
):
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=250, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--time", "20")
    before = wait_for_event(run, lambda s: any(t.epochs > 2 for t in s.trials.values()))
    slurm.run("scontrol", "update", f"jobid={job}", "requeue=0")
    slurm.run("scancel", "--signal=USR2", job)
    assert slurm.wait(job, timeout=90) == "FAILED"
    assert "SLURM refused to requeue" in log_of(run, job)
    assert exit_code(slurm, job) == "FAILED|75:0"

    job = json.loads(submit("--resume", run, "--json").stdout)["job"]
    wait_for_event(run, lambda s: len(s.attempts) == 2 and any(t.state == "running" for t in s.trials.values()))
    t0 = time.time()
    slurm.run("scancel", job)
    state = wait_for_event(run, lambda s: s.attempts[1]["ended"], timeout=60)
    measure(fault="scancel", seconds=state.attempts[1]["ended"]["t"] - t0, lost_epochs=1)
    assert slurm.wait(job, timeout=90) == "CANCELLED"
    assert exit_code(slurm, job).endswith("|75:0")

    job = json.loads(submit("--resume", run, "--json").stdout)["job"]
    assert slurm.wait(job, timeout=500) == "COMPLETED"
    assert_whole(run, before, 250)


def test_four_jobs_of_two_minutes(slurm, shared_tmp, write_sweep, submit, wait_for_event):
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=4000, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--time", "2", "--max-attempts", "4")
    end = time.monotonic() + 900
    while slurm.state(job) not in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"):
        assert time.monotonic() < end
        time.sleep(1)
    state = state_of(run)
    assert len(state.attempts) == 4
    assert {attempt["job"] for attempt in state.attempts} == {job}
    assert all("walltime" in attempt["ended"]["reason"] for attempt in state.attempts)
    assert "max_attempts 4 is reached" in state.attempts[-1]["ended"]["reason"]
    assert exit_code(slurm, job) == "FAILED|75:0"
    for trial in state.trials.values():
        assert sorted(trial.last) == list(range(1, trial.epochs + 1))  # none left out from job to job
    refused = submit("--resume", run)
    assert refused.returncode == 2
    assert "max_attempts 4 is reached" in refused.stderr


def test_gpu_hours_end_a_sweep_in_order(slurm, shared_tmp, write_sweep, submit, results):
    """A minute on two GPUs is 0.033 GPU-hours, over two jobs."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=4000, per_class=40)
    job = start(submit, path, run, "--partition", "gpu", "--time", "1", "--max-gpu-hours", "0.033")
    assert slurm.wait(job, timeout=300) == "COMPLETED", log_of(run, job)
    state = state_of(run)
    assert "max_gpu_hours 0.033 is spent" in state.ended["reason"]
    assert len(state.attempts) == 2
    assert results(run)["best"] == state.incumbent().id
    assert (run / "best" / "weights.safetensors").is_file()
    refused = submit("--resume", run)
    assert refused.returncode == 2
    assert "max_gpu_hours 0.033 is spent" in refused.stderr
