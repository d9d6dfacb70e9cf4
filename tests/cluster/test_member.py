"""Ranks on another Ray node, which fail in each way in which that can be noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_sweeps import make_shards

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.faults]
PATIENCE_S = 1800
PLAN = {
    "oom": {"fault": "little memory", "epoch": 2},
    "killed": {"fault": "killed", "epoch": 2},
    "hang": {"fault": "hang", "epoch": 2, "times": 2},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What member_probe.py saw, and the folder of its trials."""
    folder = tmp_path_factory.mktemp("member")
    (folder / "trials").mkdir()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "faults" / "inject")])
    environ = {**os.environ, "PYTHONPATH": paths, "FAULT_PLAN": json.dumps(PLAN), "FAULT_COUNTS": str(folder),
               "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    command = [sys.executable, Path(__file__).parent / "member_probe.py", make_shards(folder), folder / "trials"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "trials" / "found.json").read_text()), folder / "trials"


def test_out_of_memory_on_one_node_halves_for_all(found):
    assert found[0]["oom"] == {"micro_batches": [16, 8, 8]}


@pytest.mark.parametrize(
    ("trial", "kind", "words"),
    [
        ("killed", "killed", "ended by SIGKILL"),
        ("hang", "hang", "none of 2 processes made progress for 27 s"),
        ("actor", "killed", "the process that starts ranks on"),
        ("host", "host", "was lost"),
    ],
)
def test_a_failure_has_its_class_and_ends_all(found, trial, kind, words):
    said = found[0][trial]
    assert (said["kind"], said["alive"]) == (kind, False)
    assert words in said["cause"]


def test_ranks_that_hang_leave_their_stacks_on_each_node(found):
    for log in ("log.txt", "log-1.txt"):
        assert "in happen" in (found[1] / "hang" / log).read_text()
