"""A sweep whose trials train on two processes each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small_sweeps import ROOT, SWEEP, make_shards

from hpo.cluster.processes import find_processes
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray


def test_a_sweep_of_trials_with_two_processes(tmp_path):
    text = SWEEP.format(data=make_shards(tmp_path), epochs=1, trials=2)
    (tmp_path / "pairs.yaml").write_text(text.replace("{num_cpus: 1}", "{num_cpus: 2, num_processes: 2}"))
    command = [sys.executable, ROOT / "launch" / "submit.py", tmp_path / "pairs.yaml", "--cluster", "local"]
    done = subprocess.run(
        [*command, "--run-dir", tmp_path / "run"], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    trials = SweepState([*read_events(tmp_path / "run" / "journal.jsonl")]).trials
    assert [trial.state for trial in trials.values()] == ["completed", "completed"]
    for trial in trials.values():
        assert (trial.last[1]["ranks"], trial.last[1]["micro_batch"]) == (2, 16)
        assert json.loads((tmp_path / "run" / trial.checkpoint[1] / "meta.json").read_text())["epoch"] == 1
    assert not find_processes("hpo.trial.rank")
