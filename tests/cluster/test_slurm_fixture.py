"""The test cluster is a real SLURM: several hosts, accounting, faults."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.slurm


def test_a_step_runs_on_two_hosts_with_the_gpus_it_asked_for(slurm):
    command = "echo $(hostname) $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE"
    lines = slurm.run("srun", "-p", "gpu", "-N2", "--gres=gpu:2", "sh", "-c", command).stdout.splitlines()
    assert sorted(lines) == ["node1 0,1 2", "node2 0,1 2"]


def test_a_cancelled_job_is_seen_as_such(slurm):
    job = slurm.run("sbatch", "--parsable", "-p", "gpu", "-o", "/dev/null", "--wrap", "sleep 60").stdout.strip()
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"


def test_a_crashed_host_comes_back(slurm):
    slurm.node("crash", "node3")
    with pytest.raises(AssertionError):
        slurm.node("exec", "node3", "true")
    slurm.node("boot", "node3")
    end = time.monotonic() + 30
    while slurm.run("srun", "-p", "gpu", "-w", "node3", "-t", "1", "hostname", check=False).stdout.strip() != "node3":
        assert time.monotonic() < end
