"""Hosts that are lost on a real SLURM: other trials go on undisturbed, their own run again from their checkpoints."""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest

from hpo.records import SweepState, read_events

pytestmark = [pytest.mark.slurm, pytest.mark.faults]
SETTINGS = ("--set", "scheduler=FIFO", "--set", "optim.patience=99999", "--gpus-per-node", "1", "--time", "40")
ENDLESS = 50000  # epochs; --stop ends these sweeps
WAIT_S = 400


def kill_raylet(slurm, node):
    for pid, line in slurm.processes(node, "raylet/raylet"):
        assert "raylet" in line
        os.kill(pid, signal.SIGKILL)


def wait_until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT_S} s in vain"
        time.sleep(0.02)


def drain(slurm, node):
    slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")


FAULTS = {  # name -> how it is injected, whether the host's trial is lost
    "drained": (drain, False),
    "raylet killed": (kill_raylet, True),
    "slurmd killed": (lambda slurm, node: slurm.node("slurmd-stop", node), False),
    "host crashed": (lambda slurm, node: slurm.node("crash", node), True),
    "network down": (lambda slurm, node: slurm.node("link-down", node), True),
}


@pytest.fixture
def sweep(slurm, shared_tmp, write_sweep, submit, wait_for_event, measure):
    """Two endless trials with a place for one on each host: start(hosts), trials(), wait(...), stop()."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=ENDLESS, per_class=40)

    def start(hosts):
        flags = ("--partition", "gpu", *SETTINGS, "--nodes", str(hosts), "--run-dir", run, "--json")
        done = submit(path, *flags)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["job"]

    def wait(condition, timeout=WAIT_S):
        return wait_for_event(run, condition, timeout)

    def goes_on(epochs=3, **since):
        """Waits until each trial has as many epochs more; `since`: trial -> epochs, by default those of now."""
        since = since or {trial.id: trial.epochs for trial in state().trials.values()}
        return wait(lambda s: len(s.trials) == 2 and all(t.epochs >= since.get(t.id, 0) + epochs
                                                         for t in s.trials.values()))  # fmt: skip

    def state():
        return SweepState(read_events(run / "journal.jsonl"))

    def starts(trial, since=0.0):
        return [event for event in read_events(run / "journal.jsonl")
                if event["type"] == "started" and event["trial"] == trial and event["t"] > since]  # fmt: skip

    def stop(job):
        t0 = time.time()
        done = submit("--stop", run, timeout=300)
        assert done.returncode == 0, done.stderr
        ended = state()
        measure(fault="submit.py --stop", seconds=ended.attempts[-1]["ended"]["t"] - t0)
        assert "submit.py --stop" in ended.attempts[-1]["ended"]["reason"]
        for trial in ended.trials.values():
            assert sorted(trial.last) == list(range(1, trial.epochs + 1))  # none left out
        assert slurm.state(job) == "FAILED"  # 75: to be gone on with
        return ended

    return SimpleNamespace(run=run, start=start, wait=wait, goes_on=goes_on, state=state, starts=starts, stop=stop)


@pytest.mark.parametrize("faults", [("drained", "raylet killed", "slurmd killed", "host crashed"), ("network down",)])
def test_a_workers_host_fails(slurm, sweep, measure, faults):
    """Three hosts, two trials: one host has a place to spare."""
    job = sweep.start(3)
    for fault in faults:
        inject, loses = FAULTS[fault]
        before = sweep.goes_on()
        other, hit = sorted(before.trials.values(), key=lambda trial: trial.node)
        assert hit.node != "node1"
        failed = len(hit.failures)
        t0 = time.time()
        inject(slurm, hit.node)
        if loses:
            state = sweep.wait(lambda s, hit=hit, t0=t0: sweep.starts(hit.id, t0))
            again = sweep.starts(hit.id, t0)[0]
            reached = max(e["epoch"] for e in read_events(sweep.run / "journal.jsonl")
                          if e["type"] == "reported" and e["trial"] == hit.id and e["t"] < again["t"])  # fmt: skip
            measure(fault=fault, seconds=again["t"] - t0, lost_epochs=reached - again["epoch"])
            assert reached - again["epoch"] <= 1
            assert [f["kind"] for f in state.trials[hit.id].failures[failed:]] == ["host"]
        else:
            time.sleep(20)  # SLURM gives up a host without slurmd after 15
            assert not sweep.starts(hit.id, t0)
            measure(fault=fault, seconds=None, lost_epochs=0)
        state = sweep.goes_on(**{trial.id: trial.epochs for trial in before.trials.values()})
        assert not state.trials[other.id].failures
        assert len(sweep.starts(other.id)) == 1
        if fault == "drained":
            slurm.run("scontrol", "update", f"nodename={hit.node}", "state=resume")
    assert len(sweep.stop(job).attempts) == 1


@pytest.mark.parametrize("fault", ["crash", "link-down"])
def test_the_host_with_the_head_is_lost(slurm, sweep, measure, fault):
    """The other host has the job queued again, and a driver that still runs on a host cut off makes way."""
    job = sweep.start(2)
    before = sweep.goes_on()
    t0 = time.time()
    slurm.node(fault, before.attempts[0]["host"])
    state = sweep.wait(lambda s: len(s.attempts) == 2)
    measure(fault=f"head's host: {fault}: attempt", seconds=state.attempts[1]["t"] - t0)
    state = sweep.wait(lambda s: any(sweep.starts(trial, s.attempts[1]["t"]) for trial in s.trials))
    again = min(event["t"] for trial in state.trials for event in sweep.starts(trial, state.attempts[1]["t"]))
    measure(fault=f"head's host: {fault}", seconds=again - t0)
    state = sweep.goes_on(**{trial.id: trial.epochs for trial in before.trials.values()})
    assert {attempt["job"] for attempt in state.attempts} == {job}
    for trial in before.trials.values():
        assert {e: state.trials[trial.id].first[e] for e in trial.first} == trial.first
    sweep.stop(job)
    if fault == "link-down":  # or it would take SLURM a while to end what is left of the job there
        slurm.node("crash", before.attempts[0]["host"])


@pytest.mark.parametrize("hit", ["head", "other"])
def test_a_host_crashes_and_is_back_at_once(slurm, sweep, measure, hit):
    """SLURM does not notice: it says "missing step on node", or nothing, and goes on giving the host to the job."""
    job = sweep.start(2)
    before = sweep.goes_on()
    host = before.attempts[0]["host"] if hit == "head" else next(
        trial.node for trial in before.trials.values() if trial.node != before.attempts[0]["host"])  # fmt: skip
    t0 = time.time()
    slurm.node("crash", host)
    slurm.node("boot", host)
    state = sweep.wait(lambda s: len(s.attempts) == 2)
    measure(fault=f"{hit}'s host: reboot", seconds=state.attempts[1]["t"] - t0)
    state = sweep.goes_on(**{trial.id: trial.epochs for trial in before.trials.values()})
    assert {attempt["job"] for attempt in state.attempts} == {job}
    sweep.stop(job)


def test_the_heads_host_is_lost_and_slurm_refuses_to_requeue(slurm, sweep, submit, measure):
    """The job is cancelled, the log of another host says why and how to go on, and that goes on."""
    job = sweep.start(2)
    before = sweep.goes_on()
    slurm.run("scontrol", "update", f"jobid={job}", "requeue=0")
    t0 = time.time()
    slurm.node("crash", before.attempts[0]["host"])
    assert slurm.wait(job, timeout=WAIT_S) == "CANCELLED"
    measure(fault="head's host: crash, requeue refused", seconds=time.time() - t0)
    said = (sweep.run / "submitit" / f"{job}_1_log.out").read_text()
    assert "SLURM refused to requeue" in said
    assert f"job {job} is cancelled; go on with submit.py --resume {sweep.run}" in said
    slurm.idle()
    job = json.loads(submit("--resume", sweep.run, "--json").stdout)["job"]
    sweep.goes_on(**{trial.id: trial.epochs for trial in before.trials.values()})
    sweep.stop(job)


def test_the_host_of_rank_0_is_lost_before_there_is_a_head(slurm, sweep, measure):
    """The other host waits for its word as long as it takes at most, then has the job queued again."""
    job = sweep.start(2)
    wait_until(lambda: all(slurm.processes(node, "submitit.core._submit") for node in ("node1", "node2")))
    slurm.node("crash", slurm.run("squeue", "-h", "-j", job, "-o", "%B").stdout.strip())
    assert not list(sweep.run.glob("attempts/*/head.json"))
    t0 = time.time()
    state = sweep.wait(lambda s: len(s.attempts) == 1, timeout=2 * WAIT_S)
    measure(fault="head's host: crash before there is a head", seconds=state.attempts[0]["t"] - t0)
    assert "its host is lost" in (sweep.run / "submitit" / f"{job}_1_log.out").read_text()
    state = sweep.goes_on()
    assert [attempt["job"] for attempt in state.attempts] == [job]
    sweep.stop(job)


def test_a_worker_is_added_to_a_sweep_on_one_host(slurm, sweep, submit, measure):
    """Its Ray listens on loopback alone: it starts again, in the same job, and the worker joins."""
    job = sweep.start(1)
    before = sweep.wait(lambda s: any(trial.epochs > 2 for trial in s.trials.values()))
    t0 = time.time()
    added = submit("--add-workers", "1", sweep.run, "--exclude", before.attempts[0]["host"], "--json")
    assert added.returncode == 0, added.stderr
    [worker] = json.loads(added.stdout)["workers"]
    state = sweep.goes_on(**{trial.id: trial.epochs for trial in before.trials.values()})
    assert len({trial.node for trial in state.trials.values()}) == 2
    assert [attempt["job"] for attempt in state.attempts] == [job, job]
    assert "workers of other hosts" in state.attempts[0]["ended"]["reason"]
    assert not any(trial.failures for trial in state.trials.values())
    joined = {event["job"]: event["t"] for event in read_events(sweep.run / "journal.jsonl")
              if event["type"] == "worker_joined"}  # fmt: skip
    assert set(joined) == {job, worker}
    measure(fault="a worker added to one host", seconds=joined[worker] - t0)
    sweep.stop(job)


def test_seconds_from_the_jobs_start_until_ray_is_ready(slurm, sweep, submit, measure):
    for number, hosts in enumerate((1, 2, 3, 3, 2, 1, 1, 2, 3)):
        job = None if number else sweep.start(1)
        if job is None:
            done = submit("--resume", sweep.run, "--nodes", str(hosts), "--json")
            job = json.loads(done.stdout)["job"]
        sweep.wait(lambda s, job=job: list(sweep.run.glob(f"attempts/{job}.*/ready.json")))
        [ready] = sweep.run.glob(f"attempts/{job}.*/ready.json")
        said = json.loads(ready.read_text())
        assert len(said["hosts"]) == hosts
        measure(fault=f"none: {hosts} hosts ready", seconds=said["seconds"])
        sweep.stop(job)
