"""A real sweep on a file system that becomes full, and goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from course import course, curves
from small_sweeps import ROOT, SWEEP

from hpo.records import SweepState, read_events

pytestmark = [pytest.mark.ray, pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")]


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 4 MB; grow it by a remount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def submit(*arguments):
    command = [sys.executable, ROOT / "launch" / "submit.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_a_full_disk_ends_the_attempt_and_nothing_is_lost(shards, small_disk, tmp_path):
    sweep = tmp_path / "small.yaml"
    sweep.write_text(SWEEP.format(data=shards, epochs=2, trials=4))
    more = ["--set", "scheduler=FIFO", "--set", "searcher=random", "--set", "num_to_keep=2"]
    done = submit(sweep, "--cluster", "local", "--run-dir", small_disk / "run", *more)
    assert done.returncode == 75, done.stderr
    assert "make room" in done.stderr
    before = read_events(small_disk / "run" / "journal.jsonl")
    assert before
    assert all(t.state != "failed" for t in SweepState(before).trials.values())
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    done = submit("--resume", small_disk / "run")
    assert done.returncode == 0, done.stderr
    after = read_events(small_disk / "run" / "journal.jsonl")
    assert after[: len(before)] == before
    state = SweepState(after)
    assert state.ended
    assert [sorted(trial.last) for trial in state.trials.values()] == [[1, 2]] * 4
    assert len(curves(after)) == 8
    assert sum(row[0] == "finished" for row in course(after)) == 4
