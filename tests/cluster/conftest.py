"""Small real sweeps: a few bundled photographs, timm's test models, seconds a trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweeps import ROOT, SWEEP, make_shards

from hpo.records import SweepState, read_events

_MEASURES = os.environ.get("SLURMTUNE_MEASURES")  # read here: each test is given an environment without it


@pytest.fixture
def write_sweep():
    """write_sweep(folder, trials, epochs) -> sweep.yaml in it, with real shards beside it."""

    def write(folder, trials=5, epochs=3, per_class=16):
        make_shards(folder, per_class)
        path = folder / "small.yaml"
        path.write_text(SWEEP.format(data="data", epochs=epochs, trials=trials))
        return path

    return write


@pytest.fixture
def submit():
    """submit(*arguments) -> the finished launch/submit.py."""

    def run(*arguments, timeout=240, **options):
        command = [sys.executable, ROOT / "launch" / "submit.py", *arguments]
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    return run


@pytest.fixture
def results():
    """results(directory) -> what launch/results.py --json says."""

    def read(directory):
        command = [sys.executable, ROOT / "launch" / "results.py", directory, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
        return json.loads(done.stdout)

    return read


@pytest.fixture
def wait_for_event():
    """wait_for_event(directory, condition on SweepState) -> that state."""

    def wait(directory, condition, timeout=600):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            state = SweepState(read_events(directory / "journal.jsonl"))
            if condition(state):
                return state
            time.sleep(0.25)
        raise AssertionError(f"waited {timeout} s in vain; {state.events} events")

    return wait


@pytest.fixture
def measure(request, has_passed):
    """measure(fault=..., seconds=..., ...) adds a JSON line to the file named by $SLURMTUNE_MEASURES, if set, and
    whether the test passed."""
    rows = []

    def note(**row):
        about = {"test": request.node.name, "t": round(time.time()), "load": round(os.getloadavg()[0], 1)}
        rows.append({**about, **row, **({"seconds": round(row["seconds"], 2)} if row["seconds"] is not None else {})})

    yield note
    if _MEASURES:
        with Path(_MEASURES).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({**row, "passed": has_passed()}) + "\n" for row in rows)
