"""The test cluster is a real SLURM: hosts, accounting, preemption, faults; and the fixture sees what is left."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.slurm


def submit(slurm, *arguments, command="sleep 60"):
    return slurm.run("sbatch", "--parsable", "-o", "/dev/null", *arguments, "--wrap", command).stdout.strip()


def test_a_step_runs_on_two_hosts_with_the_gpus_it_asked_for(slurm):
    command = "echo $(hostname) $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE"
    lines = slurm.run("srun", "-p", "gpu", "-N2", "--gres=gpu:2", "sh", "-c", command).stdout.splitlines()
    assert sorted(lines) == ["node1 0,1 2", "node2 0,1 2"]


def test_hosts_share_the_checkout_and_shared_tmp_but_not_tmp(slurm, shared_tmp, tmp_path):
    command = f"ls {__file__} && echo $(hostname) > {shared_tmp}/$(hostname) && ! ls {tmp_path}"
    slurm.run("srun", "-p", "gpu", "-N3", "sh", "-c", command)
    assert {path.read_text().strip() for path in shared_tmp.iterdir()} == set(slurm.hosts)
    assert shared_tmp.stat().st_mode & 0o777 == 0o700


def test_a_cancelled_job_is_seen_as_such(slurm):
    job = submit(slurm, "-p", "gpu")
    assert slurm.wait(job, states=("RUNNING",)) == "RUNNING"
    assert slurm.script(job).endswith("sleep 60\n")
    assert "sleep 60" in [line for _, line in slurm.processes("node1", "sleep")]
    slurm.cancel(job)
    assert slurm.state(job) == "CANCELLED"
    end = time.monotonic() + 30
    while "CANCELLED" not in slurm.run("sacct", "-j", job, "-X", "-n", "-o", "State").stdout:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_crashed_host_comes_back(slurm):
    slurm.node("crash", "node3")
    assert slurm.node("exec", "node3", "true", check=False).returncode != 0
    slurm.node("boot", "node3")
    end = time.monotonic() + 30
    while slurm.run("srun", "-p", "gpu", "-w", "node3", "-t", "1", "hostname", check=False).stdout.strip() != "node3":
        assert time.monotonic() < end


def test_a_job_in_preempt_gives_way_and_is_requeued(slurm):
    low = submit(slurm, "-p", "preempt", "-N3", "--exclusive", "--requeue")
    slurm.wait(low, states=("RUNNING",))
    high = submit(slurm, "-p", "gpu", "-N3", "--exclusive", command="sleep 1")
    assert slurm.wait(high, timeout=60) == "COMPLETED"
    assert slurm.wait(low, states=("PENDING", "RUNNING"))
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", low).stdout


def test_a_site_can_demand_an_account(slurm):
    with slurm.require_account():
        refused = slurm.run("sbatch", "-p", "gpu", "--wrap", "true", check=False)
        assert refused.returncode != 0
        assert "Invalid account or account/partition combination" in refused.stderr
        job = submit(slurm, "-p", "gpu", "--account", "tb", command="true")
        assert slurm.wait(job) == "COMPLETED"
    assert slurm.wait(submit(slurm, "-p", "gpu", command="true")) == "COMPLETED"


def test_idle_mends_what_a_test_broke(slurm):
    submit(slurm, "-p", "gpu", "-N2", "--exclusive")
    submit(slurm, "-p", "gpu", "-N3", "--exclusive")
    slurm.node("crash", "node1")
    slurm.node("link-down", "node2")
    slurm.run("scontrol", "update", "nodename=node3", "state=drain", "reason=test")
    slurm.idle()
    assert slurm.run("squeue", "-h").stdout == ""
    assert sorted(slurm.run("srun", "-p", "gpu", "-N3", "hostname").stdout.split()) == list(slurm.hosts)


def test_a_process_that_outlives_its_job_is_found(slurm):
    command = "setsid sleep 4321 >/dev/null 2>&1 </dev/null & sleep 0.2"
    slurm.run("srun", "-p", "gpu", "-w", "node2", "sh", "-c", command)
    slurm.idle()
    [(pid, line)] = slurm.processes("node2")
    assert line == "sleep 4321"
    with pytest.raises(AssertionError, match=r"sleep 4321"):
        slurm.clean(timeout=1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
