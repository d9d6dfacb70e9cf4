"""Attempts on this machine: one that crashes is followed by another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from journal_schema import breaches

from hpo.cluster.processes import find_processes
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


def kill(run, word):
    """SIGKILL for the processes of the newest attempt with `word` in their command line."""
    newest = max(run.glob("attempts/*/head.json"), key=lambda path: path.stat().st_mtime)
    pids = [pid for pid in find_processes(json.loads(newest.read_text())["temp"])
            if word in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()]  # fmt: skip
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_driver_and_a_head_that_are_killed_are_followed_by_others(tmp_path, write_sweep, wait_for_event):
    run = tmp_path / "run"
    path = write_sweep(tmp_path, trials=2, epochs=25, per_class=40)
    command = [sys.executable, ROOT / "launch" / "submit.py", path, "--cluster", "local", "--run-dir", run]
    command += ["--set", "scheduler=FIFO", "--set", "optim.patience=999"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for count, word in enumerate(("hpo.cluster.driver", "gcs_server"), start=1):
        before = wait_for_event(
            run,
            lambda s, count=count: (
                len(s.attempts) == count
                and any(t.state == "running" and t.epochs > 3 * count for t in s.trials.values())
            ),
        )
        kill(run, word)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    state = SweepState(read_events(run / "journal.jsonl"))
    first = state.attempts[0]["attempt"]
    assert [attempt["attempt"] for attempt in state.attempts] == [first, f"{first}-1", f"{first}-2"]
    assert state.ended
    for trial in before.trials.values():
        assert state.trials[trial.id].params == trial.params
        assert {e: state.trials[trial.id].first[e] for e in trial.first} == trial.first
    assert all(sorted(trial.last) == list(range(1, 26)) for trial in state.trials.values())
    exits = [json.loads(path.read_text()) for path in run.glob("attempts/*/exit.json")]
    assert sorted((one["code"], one["again"]) for one in exits) == [(0, False), (4, True), (4, True)]


def test_a_sweep_is_stopped_from_elsewhere_and_then_extended(tmp_path, write_sweep, submit, wait_for_event):
    run = tmp_path / "run"
    path = write_sweep(tmp_path, trials=2, epochs=30, per_class=40)
    command = [sys.executable, ROOT / "launch" / "submit.py", path, "--cluster", "local", "--run-dir", run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_event(run, lambda s: any(t.epochs for t in s.trials.values()))
    stopped = submit("--stop", run)
    assert stopped.returncode == 0, stopped.stderr
    assert "--resume" in stopped.stderr
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    state = SweepState(read_events(run / "journal.jsonl"))
    assert "submit.py --stop" in state.attempts[-1]["ended"]["reason"]
    assert "nothing is at work" in submit("--stop", run).stderr

    before = (run / "resolved.json").read_bytes()
    for flags, words in (
        (["--set", "optim.max_epochs=60"], "cannot be given other epochs"),
        (["--num-trials", "1"], "has 2 trials already"),
        (["--num-trials", "+0"], "at least 1"),
        (["--max-attempts", "1"], "max_attempts 1 is reached"),
    ):
        refused = submit("--resume", run, *flags)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    assert (run / "resolved.json").read_bytes() == before

    done = submit("--resume", run, "--num-trials", "+1")
    assert done.returncode == 0, done.stderr
    events = read_events(run / "journal.jsonl")
    state = SweepState(events)
    assert state.ended
    assert len(state.trials) == 3
    assert [(e["before"], e["num_trials"]) for e in events if e["type"] == "extended"] == [(2, 3)]
    assert not breaches(run / "journal.jsonl")
