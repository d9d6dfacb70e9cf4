"""Fixtures for all tests: a clean environment, fast tests first, and the real SLURM of tests/slurm_cluster."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "tests" / "slurm_cluster"
SHARE = Path(os.environ.get("TB_STATE", "/var/lib/slurm-testbed")) / "share"
RUN = Path("/run/slurm-testbed")
DEMANDED = "SLURMTUNE_REQUIRE_SLURM" in os.environ  # a test on SLURM that is skipped has failed
SOLE_USE_S = 1200  # so long another test run may have the cluster
_PREFIXES = ("SLURM_", "SBATCH_", "SLURMTUNE_", "RAY_", "SUBMITIT_")
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
_PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip")
_ENABLE = "to enable them, as root on Debian or Ubuntu: tests/slurm_cluster/install.sh"
_ON_SLURM = "_slurm.py"  # so end the names of the files with tests on SLURM
_passed = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """One thread for whatever trains: on a busy core threads wait for each other, ten times as long as they work.
    And Ctrl-C means something to what tests start: a shell's background job, as of nohup, is started to ignore it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast ones first, then those that start Ray, then those on SLURM, which are marked so. With several workers those
    on SLURM, which wait more than they work, begin at once in one of them."""
    for item in items:
        if "slurm_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")
            assert item.path.name.endswith(_ON_SLURM), f"{item.nodeid} needs the cluster: move it to *{_ON_SLURM}"
    on_slurm = -1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    order = {"slurm": on_slurm, "ray": 1}
    items.sort(key=lambda item: next((place for mark, place in order.items() if item.get_closest_marker(mark)), 0))


class _Scheduling(LoadFileScheduling):
    """A file's tests stay with one worker, and all on SLURM too, of which there is one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "slurm" if file.endswith(_ON_SLURM) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("slurm"):
        why = str(call.excinfo and call.excinfo.value)
        if DEMANDED:
            report.outcome, report.longrepr = "failed", f"SLURMTUNE_REQUIRE_SLURM is set, but {why}"
        else:
            report.longrepr = (__file__, 1, why)  # one place for all, so that pytest says it on one line
    item.stash[_passed] = item.stash.get(_passed, True) and not report.failed
    return report


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, _cache: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _shared() -> dict[str, str]:
    """This environment, with what hosts are to see of /tmp, where a clone may lie: also a host that is booted again."""
    below_tmp = [str(path) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) if path.parts[1] == "tmp"]
    return {**os.environ, "TB_SHARED": " ".join(below_tmp)}


class Slurm:
    """The running test cluster: SLURM's commands, and faults."""

    hosts = ("node1", "node2", "node3")

    def __init__(self) -> None:
        self._settings: dict[str, str] = {}

    def run(
        self, *command: object, timeout: float = 60, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login node, which is this machine; returns the finished process."""
        parts = [str(part) for part in command]
        options = {"stdin": subprocess.DEVNULL, **options}
        done = subprocess.run(parts, capture_output=True, text=True, timeout=timeout, check=False, **options)
        assert not check or done.returncode == 0, f"{parts}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def state(self, job: str) -> str:
        answer = self.run("scontrol", "show", "job", job, "--oneliner", check=False).stdout
        words = dict(word.partition("=")[::2] for word in answer.split())
        return words.get("JobState", "")

    def wait(self, job: str, timeout: float = 180, states: Sequence[str] = _ENDED) -> str:
        """Waits until the job is in one of `states`, by default until it has ended; returns its state."""
        end = time.monotonic() + timeout
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {state or 'unknown'} after {timeout} s, not {states}"
            time.sleep(0.2)
        return state

    def cancel(self, job: str, timeout: float = 60) -> None:
        self.run("scancel", job)
        self.wait(job, timeout, ("CANCELLED",))

    def script(self, job: str) -> str:
        """The batch script as SLURM has it."""
        return self.run("scontrol", "write", "batch_script", job, "-").stdout

    def node(self, command: str, node: str, *more: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """crash, boot, exec, slurmd-stop, slurmd-start, link-down or link-up, see node.sh."""
        return self.run(CLUSTER / "node.sh", command, node, *more, check=check, env={**_shared(), **self._settings})

    def processes(self, node: str, *words: str) -> list[tuple[int, str]]:
        """(pid as seen from here, command line) on the host, its own services left out; with `words`, if one occurs."""
        init = int(self.node("pid", node).stdout)
        space = Path(f"/proc/{init}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or (entry / "ns" / "pid").readlink() != space:
                    continue
                name = (entry / "comm").read_text().strip()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it has just ended
                continue
            service = int(entry.name) == init or name in ("munged", "slurmd") or line == "sleep 86400"
            if line and not service and (not words or any(word in line for word in words)):
                found.append((int(entry.name), line))
        return found

    def idle(self, timeout: float = 60) -> None:
        """Cancels what is left, mends what is broken, and waits until every host is free."""
        end = time.monotonic() + timeout
        while True:
            jobs = self.run("squeue", "-h", "-o", "%A %t", check=False).stdout.splitlines()
            states = self.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%t", check=False).stdout.split()
            if not self._whole() or not states or not {"idle", "mix", "alloc", "comp"}.issuperset(states):
                self.up(**self._settings)
            elif not jobs and set(states) == {"idle"}:
                return
            if left := [line.split()[0] for line in jobs if not line.endswith(" CG")]:
                self.run("scancel", *left, check=False)
            assert time.monotonic() < end, f"the test cluster is not idle after {timeout} s: {jobs} {states}"
            time.sleep(0.2)

    def clean(self, timeout: float = 15) -> None:
        """Waits until no process of a job is left on any host; fails after `timeout`, with fresh hosts."""
        end = time.monotonic() + timeout
        while left := {node: found for node in self.hosts if (found := self.processes(node))}:
            if time.monotonic() > end:
                for node in left:
                    self.node("crash", node)
                self.idle()
                raise AssertionError(f"processes that outlived their jobs: {left}")
            time.sleep(0.2)

    def _whole(self) -> bool:
        """Whether every host and its cable are there: slurmctld takes TB_SLURMD_TIMEOUT to notice."""
        cables = self.run("ip", "-o", "link", "show", "up").stdout
        if not all(f" tb-{node}@" in cables for node in self.hosts):
            return False
        return all(self.node("pid", node, check=False).returncode == 0 for node in self.hosts)

    @contextmanager
    def require_account(self) -> Iterator[None]:
        """A site that demands an account: sbatch refuses without --account; `tb` is one."""
        self.up(TB_ENFORCE="associations")
        try:
            yield
        finally:
            self.idle()
            self.up()

    def is_up(self) -> bool:
        return RUN.is_dir() and "UP" in self.run("scontrol", "ping", check=False).stdout

    def up(self, **settings: str) -> None:
        """Starts the cluster, or what is missing of it; other settings than before restart what they concern."""
        self.run(CLUSTER / "up.sh", timeout=180, env={**_shared(), **settings})
        self._settings = settings

    def down(self) -> None:
        self.run(CLUSTER / "down.sh", timeout=120)


def _why_not() -> str:
    """Why no real SLURM can run here, '' when it can."""
    if os.geteuid() != 0:
        return f"not root; {_ENABLE}"
    if missing := [name for name in _PROGRAMS if not shutil.which(name)]:
        return f"{', '.join(missing)} missing; {_ENABLE}"
    config = Path("/etc/slurm/slurm.conf")
    if config.exists() and not config.is_symlink():
        return f"{config} belongs to a SLURM of this machine, which is left alone"
    spaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc"]
    probe = ["ip", "link", "add", "tb-probe", "type", "bridge"]
    tried = subprocess.run([*spaces, *probe], capture_output=True, timeout=30, check=False)
    return "" if tried.returncode == 0 else "namespaces or bridges are not permitted"


@contextmanager
def _sole_use() -> Iterator[None]:
    """Waits until no other test run has the cluster: there is one on a machine, and each cancels what it finds."""
    end = time.monotonic() + SOLE_USE_S
    with Path("/run/lock/slurm-testbed").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end, f"another test run has had the test cluster for {SOLE_USE_S} s"
                time.sleep(0.5)
        yield


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """The cluster, started if it was down and then stopped at the end; one that a person started stays up."""
    if reason := _why_not():
        pytest.skip(f"no tests on a real SLURM here: {reason}")
    mark = RUN / "started-by-tests"  # outlives a killed session, so that the next one stops the cluster
    cluster = Slurm()
    with _sole_use():
        ours = mark.exists() or not cluster.is_up()
        cluster.up()
        if ours:
            mark.touch()
        for old in SHARE.glob("t-*"):  # of failed tests, kept until now to be looked at
            shutil.rmtree(old, ignore_errors=True)
        yield cluster
        if ours:
            cluster.down()
            mark.unlink(missing_ok=True)


@pytest.fixture
def has_passed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """For the end of a fixture: whether its test has passed."""
    return lambda: request.node.stash.get(_passed, False)


@pytest.fixture
def shared_tmp(slurm_cluster: Slurm, has_passed: Callable[[], bool]) -> Iterator[Path]:
    """A new directory that all hosts of the test cluster see; pytest's own lies below /tmp, which they do not share.

    It is removed when the test has passed, and kept until the next session when not.
    """
    folder = SHARE / f"t-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700)
    yield folder
    if has_passed():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(slurm_cluster: Slurm, shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster with all hosts free, before and after; fails when processes outlive the jobs."""
    monkeypatch.setenv("SLURMTUNE_ACCELERATOR", "cpu")  # its GPUs are device files without CUDA behind them
    slurm_cluster.idle()
    yield slurm_cluster
    slurm_cluster.idle()
    slurm_cluster.clean()
