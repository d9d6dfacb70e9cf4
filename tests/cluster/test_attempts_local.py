"""A sweep on this machine that is stopped from elsewhere; tests/faults/test_kills.py has those that crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from journal_schema import breaches

from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


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
