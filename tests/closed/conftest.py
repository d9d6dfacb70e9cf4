"""A cage with alice and bob, each with shards and a sweep file at home."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cage as cages
import pytest
from small_sweeps import SWEEP, make_shards

from hpo.records import SweepState, read_events

SUBMIT = cages.ROOT / "launch" / "submit.py"
MEASURES = os.environ.get("SLURMTUNE_MEASURES")  # read here: each test is given an environment without it
START_S = 400  # for a sweep to begin on a machine with better things to do


class User:
    """One who runs sweeps in the cage."""

    def __init__(self, cage, name, sweep):
        self.cage, self.name, self.sweep = cage, name, sweep

    def home(self, inside):
        """The file of this name at home, as seen from outside."""
        return self.cage.path(f"/tmp/{self.name}/{inside}")

    def submit(self, *arguments):
        """A running submit.py, which prints to the file out.log at home."""
        with self.home("out.log").open("a") as log:
            return self.cage.start(self.name, sys.executable, SUBMIT, *arguments, stdout=log)

    def begin(self, run, *more):
        """A sweep that goes on for longer than any test."""
        return self.submit(self.sweep, "--cluster", "local", "--run-dir", f"/tmp/{self.name}/{run}",
                           "--set", "scheduler=FIFO", "--set", "optim.max_epochs=5000",
                           "--set", "optim.patience=5000", *more)  # fmt: skip

    def state(self, run):
        return SweepState(read_events(self.home(f"{run}/journal.jsonl")))

    def wait_for_epochs(self, run, count=1, attempts=1, timeout=START_S):
        end = time.monotonic() + timeout
        while True:
            state = self.state(run) if self.home(f"{run}/journal.jsonl").exists() else SweepState()
            if len(state.attempts) >= attempts and sum(trial.epochs for trial in state.trials.values()) >= count:
                return state
            assert time.monotonic() < end, self.home("out.log").read_text()
            time.sleep(0.2)

    def pids(self, *words):
        """This user's processes with one of `words` in their command line; without, all."""
        found = []
        for pid in self.cage.processes():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                owner = Path(f"/proc/{pid}").stat().st_uid
            except OSError:  # it has just ended
                continue
            if owner == cages.USERS[self.name] and (not words or any(word in line for word in words)):
                found.append(pid)
        return found

    def kill(self, signum, *words):
        pids = self.pids(*words)
        assert pids, words
        self._signal(signum, pids)

    @staticmethod
    def _signal(signum, pids):
        for pid in pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:  # another one took it along
                continue

    @contextmanager
    def standing_still(self):
        """Stops all of this user's processes, so that no file comes or goes meanwhile."""
        stopped = set()
        try:
            while running := set(self.pids()) - stopped:  # one may have begun another in between
                stopped |= running
                self._signal(signal.SIGSTOP, running)
            yield
        finally:
            self._signal(signal.SIGCONT, stopped)


@pytest.fixture(scope="module")
def cage(tmp_path_factory):
    if why := cages.why_not():
        pytest.skip(f"no second user here: {why}")
    pytest.importorskip("grpc")
    with cages.Cage() as made:
        made.data = make_shards(tmp_path_factory.mktemp("closed"))
        yield made


def _user(cage, name):
    sweep = cage.data.parent / f"{name}.yaml"
    sweep.write_text(SWEEP.format(data="data", epochs=2, trials=2))
    cage.bring(name, cage.data, "data")
    return User(cage, name, cage.bring(name, sweep, "small.yaml"))


@pytest.fixture(scope="module")
def alice(cage):
    return _user(cage, "alice")


@pytest.fixture(scope="module")
def bob(cage):
    return _user(cage, "bob")


@pytest.fixture(scope="module")
def at_work(cage, alice):
    """alice's sweep `run`, in the middle of it; ended by Ctrl-C."""
    process = alice.begin("run")
    alice.wait_for_epochs("run")
    yield process
    if process.poll() is None:
        alice.kill(signal.SIGINT, "launch/submit.py")
        process.wait(START_S)


@pytest.fixture
def measure(request):
    """measure(seconds=..., ...) adds a JSON line to the file named by $SLURMTUNE_MEASURES, if set."""

    def note(**row):
        if MEASURES:
            with Path(MEASURES).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"test": request.node.name, "t": round(time.time(), 1), **row}) + "\n")

    return note
