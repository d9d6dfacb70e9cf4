"""Fixtures for all tests: a clean environment, fast tests first, and the real SLURM of tests/slurm_cluster."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "tests" / "slurm_cluster"
SHARE = Path(os.environ.get("TB_STATE", "/var/lib/slurm-testbed")) / "share"
PYTHON = sys.executable
_REQUIRED = "SLURMTUNE_REQUIRE_SLURM"
_PREFIXES = ("SLURM_", "SBATCH_", "SLURMTUNE_", "RAY_", "SUBMITIT_")
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


def pytest_collection_modifyitems(items):
    """Fast ones first, then those that start Ray, then those on SLURM."""
    items.sort(key=lambda item: 2 if item.get_closest_marker("slurm") else 1 if item.get_closest_marker("ray") else 0)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(_PREFIXES) and name != _REQUIRED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Slurm:
    """The running test cluster: SLURM's commands, and faults."""

    def run(self, *command, timeout=60, check=True, **options):
        """Runs a command on the login node, which is this machine; returns the finished process."""
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, **options
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def state(self, job):
        answer = self.run("scontrol", "show", "job", job, "--oneliner", check=False).stdout
        words = dict(word.partition("=")[::2] for word in answer.split())
        return words.get("JobState", "")

    def wait(self, job, timeout=180):
        """Waits until the job has ended; returns its state."""
        end = time.monotonic() + timeout
        while (state := self.state(job)) not in _ENDED:
            assert time.monotonic() < end, f"job {job} is {state} after {timeout} s"
            time.sleep(0.3)
        return state

    def script(self, job):
        return self.run("scontrol", "write", "batch_script", job, "-").stdout

    def node(self, command, node, *more, check=True):
        """crash, boot, exec, slurmd-stop, slurmd-start, link-down or link-up, see node.sh."""
        return self.run(CLUSTER / "node.sh", command, node, *more, check=check)

    def processes(self, node, *words):
        """Command lines on the host that contain one of `words`."""
        lines = self.node("exec", node, "ps", "-eo", "args", "--no-headers").stdout.splitlines()
        return [line for line in lines if any(word in line for word in words)]

    def idle(self, timeout=60):
        """Cancels what is left and waits until every host is free."""
        self.run("scancel", "--full", "-u", "root", check=False)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            jobs = self.run("squeue", "-h").stdout.strip()
            states = set(self.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%t").stdout.split())
            if not jobs and states == {"idle"}:
                return
            time.sleep(0.3)
        raise AssertionError(f"the test cluster is not idle after {timeout} s: {jobs} {states}")

    def up(self, **settings):
        # the hosts have a /tmp each: a checkout or an environment below /tmp has to be shown to them
        needed = {
            f"/tmp/{Path(p).relative_to('/tmp').parts[0]}" for p in (ROOT, sys.prefix) if Path(p).is_relative_to("/tmp")
        }
        settings.setdefault("TB_SHARED", " ".join(needed))
        self.run(CLUSTER / "up.sh", timeout=120, env={**os.environ, **settings})

    def down(self):
        self.run(CLUSTER / "down.sh", timeout=60)


def _why_not():
    """Why no real SLURM can run here, '' when it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [
        name for name in ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip") if not shutil.which(name)
    ]
    if missing:
        return f"{', '.join(missing)} missing"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "namespaces are not permitted"


@contextlib.contextmanager
def _sole_use(timeout=1200):
    """One test run at a time has the cluster: there is one on a machine."""
    with Path("/run/lock/slurm-testbed").open("w") as lock:
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end, f"another test run has had the cluster for {timeout} s"
                time.sleep(1)
        yield


@pytest.fixture(scope="session")
def slurm_cluster():
    if reason := _why_not():
        message = f"no real SLURM here ({reason}); as root on Debian or Ubuntu run tests/slurm_cluster/install.sh"
        if os.environ.get(_REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    with _sole_use():
        cluster = Slurm()
        cluster.down()
        cluster.up()
        yield cluster
        cluster.down()


@pytest.fixture
def slurm(slurm_cluster, monkeypatch):
    """The cluster with all hosts idle, before and after."""
    monkeypatch.setenv("SLURMTUNE_ACCELERATOR", "cpu")  # its GPUs are device files without CUDA behind them
    slurm_cluster.idle()
    yield slurm_cluster
    slurm_cluster.idle()


@pytest.fixture
def shared_tmp():
    """A new directory that all hosts of the test cluster see; pytest's own lies below /tmp, which they do not share."""
    folder = SHARE / f"t-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700, parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
