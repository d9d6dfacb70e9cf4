"""Hosts that are lost on a real SLURM: other trials go on undisturbed, their own run again from their checkpoints."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from hpo.records import SweepState, read_events

pytestmark = [pytest.mark.slurm, pytest.mark.faults]
SETTINGS = ("--set", "scheduler=FIFO", "--set", "optim.patience=9999")
AGAIN_S = 90  # from the fault until the trial runs again, where a place is free


def kill_raylet(slurm, node):
    for pid, line in slurm.processes(node, "raylet/raylet"):
        assert "raylet" in line
        os.kill(pid, signal.SIGKILL)


FAULTS = {  # name -> how it is injected, whether the host's trial is lost
    "crash": (lambda slurm, node: slurm.node("crash", node), True),
    "network down": (lambda slurm, node: slurm.node("link-down", node), True),
    "raylet killed": (kill_raylet, True),
    "slurmd killed": (lambda slurm, node: slurm.node("slurmd-stop", node), False),
    "drained": (
        lambda slurm, node: slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test"),
        False,
    ),
}


def start(submit, path, run, *flags):
    done = submit(path, "--partition", "gpu", "--gpus-per-node", "1", *SETTINGS, *flags, "--run-dir", run, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["job"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_host_is_lost(slurm, shared_tmp, write_sweep, submit, wait_for_event, measure, fault):
    """Three hosts, two trials: one host has a place to spare."""
    inject, loses = FAULTS[fault]
    run = shared_tmp / "run"
    job = start(
        submit, write_sweep(shared_tmp, trials=2, epochs=300, per_class=40), run, "--nodes", "3", "--time", "20"
    )
    state = wait_for_event(run, lambda s: len(s.trials) == 2 and all(t.epochs > 2 for t in s.trials.values()))
    hit, other = sorted(state.trials.values(), key=lambda trial: trial.node, reverse=True)
    assert hit.node != "node1"
    t0 = time.time()
    inject(slurm, hit.node)
    assert slurm.wait(job, timeout=500) == "COMPLETED", (run / "submitit" / f"{job}_0_log.out").read_text()
    events = read_events(run / "journal.jsonl")
    after = SweepState(events)
    assert after.ended
    assert len(after.attempts) == 1
    assert all(sorted(trial.last) == list(range(1, 301)) for trial in after.trials.values())
    assert not after.trials[other.id].failures
    assert sum(e["type"] == "started" and e["trial"] == other.id for e in events) == 1
    failures = after.trials[hit.id].failures
    again = [e for e in events if e["type"] == "started" and e["trial"] == hit.id and e["t"] > t0]
    if not loses:
        assert (failures, again) == ([], [])
        measure(fault=fault, seconds=None, lost_epochs=0)
        return
    assert [failure["kind"] for failure in failures] == ["host"]
    reached = max(
        e["epoch"] for e in events if e["type"] == "reported" and e["trial"] == hit.id and e["t"] < again[0]["t"]
    )
    measure(fault=fault, seconds=again[0]["t"] - t0, lost_epochs=reached - again[0]["epoch"])
    assert again[0]["t"] - t0 < AGAIN_S
    assert reached - again[0]["epoch"] <= 1


@pytest.mark.parametrize("fault", ["crash", "link-down"])
def test_the_host_with_the_head_is_lost(slurm, shared_tmp, write_sweep, submit, wait_for_event, measure, fault):
    """SLURM queues the job again, and a driver that still runs on a host cut off makes way."""
    run = shared_tmp / "run"
    job = start(
        submit, write_sweep(shared_tmp, trials=2, epochs=300, per_class=40), run, "--nodes", "2", "--time", "20"
    )
    before = wait_for_event(run, lambda s: len(s.trials) == 2 and all(t.epochs > 2 for t in s.trials.values()))
    host = before.attempts[0]["host"]
    t0 = time.time()
    slurm.node(fault, host)
    wait_for_event(run, lambda s: len(s.attempts) == 2, timeout=300)
    started = next(e["t"] for e in reversed(read_events(run / "journal.jsonl")) if e["type"] == "attempt_started")
    measure(fault=f"head's host: {fault}", seconds=started - t0, lost_epochs=None)
    assert slurm.wait(job, timeout=500) == "COMPLETED"
    after = SweepState(read_events(run / "journal.jsonl"))
    assert after.ended
    assert {attempt["job"] for attempt in after.attempts} == {job}
    for trial in before.trials.values():
        assert {e: after.trials[trial.id].first[e] for e in trial.first} == trial.first
        assert sorted(after.trials[trial.id].last) == list(range(1, 301))
