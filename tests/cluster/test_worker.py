"""What a worker makes of a rank 0 that says nothing; on SLURM itself: test_hosts_slurm.py."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import replace

import pytest

from hpo.cluster.allocation import Allocation
from hpo.cluster.raystart import COMMAND
from hpo.cluster.supervisor import END_GRACE_S
from hpo.cluster.worker import WorkerSupervisor
from hpo.layout import SweepDirectory, write_json
from hpo.records import SweepState

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@pytest.fixture
def worker(tmp_path):
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    directory = SweepDirectory(tmp_path)
    write_json(directory.resolved, {})
    here = Allocation(attempt="7.2.ab", job="7", rank=1, nodes=2, cpus=1, gpus=0, memory_mb=None, end_time=None)
    yield WorkerSupervisor(directory, replace(here, restarts=2))
    for signum, handler in before.items():
        signal.signal(signum, handler)


def started(job):
    return {"n": 0, "t": 1.0, "type": "attempt_started", "attempt": f"{job}.0.ab", "job": job, "host": "a", "nodes": 2}


@pytest.mark.parametrize(("jobs", "hopeless"), [([], True), (["6"], True), (["7"], False), (["6", "7", "7"], False)])
def test_a_job_whose_starts_bring_no_attempt_is_not_queued_for_ever(worker, jobs, hopeless):
    """It runs for the third time; attempts of other jobs do not count."""
    assert bool(worker._hopeless(SweepState([started(job) for job in jobs]))) is hopeless


def test_a_warm_process_starts_ray_with_the_arguments_it_is_told(worker):
    """And ends without a word when there is nothing to start."""
    worker._warm_up()
    warm = worker._warm
    warm.tell(json.dumps(["--version-that-is-no-flag"]))
    assert warm._process.wait(300) == 2
    log = worker.rendezvous.folder / f"worker-{worker.allocation.worker}.log"
    assert re.search("No such option.*--version-that-is-no-flag", log.read_text())
    worker._end(END_GRACE_S)
    done = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
