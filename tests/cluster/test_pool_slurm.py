"""A pool on a real SLURM: a head, and workers that come, go, are preempted, lost, replaced and released."""

from __future__ import annotations

import json
import time

import pytest
from journal_schema import breaches

from hpo.cluster.jobs import read_jobs
from hpo.layout import SweepDirectory
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.slurm
SETTINGS = ("--set", "scheduler=FIFO", "--set", "optim.patience=9999")
WORKER = ("--gpus-per-node", "4", "--cpus-per-task", "8", "--mem", "3G", "--time", "30")  # a host each, but the head's
BESIDE_THE_HEAD = ("--gpus-per-node", "4", "--cpus-per-task", "6", "--mem", "3G", "--time", "30")  # a host each


def events_of(run, kind):
    return [event for event in read_events(run / "journal.jsonl") if event["type"] == kind]


def start_pool(submit, path, run, trials, *flags, worker=WORKER):
    asked = ("--mode", "pool", *worker, "--head-time", "45", "--head-partition", "gpu", *SETTINGS, *flags)
    done = submit(path, *asked, "--run-dir", run, "--json", "--num-trials", str(trials))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_until(condition, seconds=400):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.3)
    return found


def assert_whole(run, epochs):
    """Every trial has ended, with each epoch reported, and no trial was blamed for its host."""
    state = SweepState(read_events(run / "journal.jsonl"))
    assert state.ended
    assert all(trial.state == "completed" for trial in state.trials.values())
    assert all(sorted(trial.last) == list(range(1, epochs + 1)) for trial in state.trials.values())
    return state


def test_a_pool_goes_on_with_the_workers_that_start(slurm, shared_tmp, write_sweep, submit, wait_for_event):
    """Four workers, of which two never start; a small one is added and joins; at the end nobody is left."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=4, epochs=40, per_class=40)
    jobs = start_pool(submit, path, run, 4, "--partition", "gpu", "--nodes", "4")
    assert len(jobs["workers"]) == 4
    wait_for_event(run, lambda s: s.trials)
    added = submit("--add-workers", "1", run, "--gpus-per-node", "1", "--cpus-per-task", "1", "--json")
    assert added.returncode == 0, added.stderr
    [more] = json.loads(added.stdout)["workers"]
    assert slurm.wait(jobs["job"], timeout=300) == "COMPLETED", (
        run / "submitit" / f"{jobs['job']}_0_log.out"
    ).read_text()
    assert_whole(run, 40)
    joined = {event["job"] for event in events_of(run, "worker_joined")}
    assert len(joined & set(jobs["workers"])) == 2
    assert more in joined or read_jobs(SweepDirectory(run), "worker")[-1].released
    wait_until(lambda: not slurm.run("squeue", "-h").stdout.strip(), 30)
    states = {job: slurm.state(job) for job in [*jobs["workers"], more]}
    assert sorted(states[job] for job in jobs["workers"]) == ["CANCELLED"] * 2 + ["COMPLETED"] * 2


@pytest.mark.faults
def test_workers_are_preempted_lost_replaced_and_released(
    slurm, shared_tmp, write_sweep, submit, wait_for_event, measure
):
    """Half of the workers never start, one is preempted twice, one is cancelled and replaced, and in the end, when one
    trial is left, the others are let go."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=24, epochs=100, per_class=40)
    jobs = start_pool(submit, path, run, 24, "--partition", "preempt", "--nodes", "4", "--max-replacements", "1")
    wait_for_event(run, lambda s: sum(t.epochs > 2 for t in s.trials.values()) >= 2)

    def running():
        return {
            job: node
            for job, node in (
                line.split()
                for line in slurm.run("squeue", "-h", "-t", "R", "-p", "preempt", "-o", "%A %N").stdout.splitlines()
            )
        }

    victim, host = sorted(running().items())[0]
    for _ in range(2):
        count, t0 = len(events_of(run, "worker_joined")), time.time()
        asked = ("sbatch", "--parsable", "-o", "/dev/null", "-p", "gpu", "-w", host, "--gres=gpu:4", "-c", "8")
        job = slurm.run(*asked, "--wrap", "sleep 2").stdout.strip()
        assert slurm.wait(job, timeout=90) == "COMPLETED"
        wait_until(lambda count=count: len(events_of(run, "worker_joined")) > count)
        measure(fault="pool: a worker preempted", seconds=events_of(run, "worker_joined")[-1]["t"] - t0)
    other = next(job for job in running() if job in jobs["workers"])
    t0 = time.time()
    slurm.run("scancel", other)
    replaced = wait_until(lambda: events_of(run, "worker_replaced"))
    assert replaced[0]["replaces"] == other
    measure(fault="pool: a worker cancelled and replaced", seconds=replaced[0]["t"] - t0)
    assert slurm.wait(jobs["job"], timeout=900) == "COMPLETED"
    state = assert_whole(run, 100)
    failures = [failure for trial in state.trials.values() for failure in trial.failures]
    assert len(state.attempts) == 1
    assert failures
    assert {failure["kind"] for failure in failures} == {"host"}
    assert not breaches(run / "journal.jsonl")
    wait_until(lambda: not slurm.run("squeue", "-h").stdout.strip(), 30)


@pytest.mark.faults
def test_the_host_with_a_pools_head_is_lost(slurm, shared_tmp, write_sweep, submit, wait_for_event, measure):
    """With it a worker is lost. SLURM queues both again, the other worker stays and joins the next attempt."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=5, epochs=50000, per_class=40)
    start_pool(submit, path, run, 5, "--partition", "gpu", "--nodes", "2", worker=BESIDE_THE_HEAD)
    before = wait_for_event(run, lambda s: sum(t.epochs > 2 for t in s.trials.values()) == 5, timeout=400)
    t0 = time.time()
    slurm.node("crash", before.attempts[0]["host"])
    state = wait_for_event(run, lambda s: len(s.attempts) == 2, timeout=400)
    measure(fault="pool: the head's host crashed: attempt", seconds=state.attempts[1]["t"] - t0)
    again = wait_until(lambda: [e for e in events_of(run, "started") if e["t"] > state.attempts[1]["t"]])
    measure(fault="pool: the head's host crashed", seconds=again[0]["t"] - t0)
    wait_until(lambda: len({e["job"] for e in events_of(run, "worker_joined") if e["t"] > t0}) == 2)
    goal = {trial.id: trial.epochs + 2 for trial in before.trials.values()}
    state = wait_for_event(run, lambda s: all(s.trials[one].epochs >= goal[one] for one in goal), timeout=400)
    assert {attempt["job"] for attempt in state.attempts} == {state.attempts[0]["job"]}
    done = submit("--stop", run, timeout=300)
    assert done.returncode == 0, done.stderr
    for trial in SweepState(read_events(run / "journal.jsonl")).trials.values():
        assert sorted(trial.last) == list(range(1, trial.epochs + 1))
    wait_until(lambda: not slurm.run("squeue", "-h").stdout.strip(), 60)
