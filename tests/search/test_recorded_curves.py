"""The curves that bench/search/record.py recorded are a task of the benchmark as they lie in the repository."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "search"
CURVES = BENCH / "curves" / "clothing.jsonl"
LINES = [json.loads(line) for line in CURVES.read_text().splitlines()]


def run(script, *arguments):
    done = subprocess.run([sys.executable, BENCH / script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_is_whole_and_no_configuration_comes_twice():
    assert len({line["iteration"] for line in LINES}) == len(LINES) >= 50
    for line in LINES:
        curve = line["learning_curve"]
        assert [point["epoch"] for point in curve] == list(range(1, len(curve) + 1))
        assert 3 <= line["epochs"] <= 9
        assert len(curve) <= line["epochs"]  # fewer: it diverged
        assert all(0 <= point["top_1"] <= 1 for point in curve)
        assert all(a["time"] < b["time"] for a, b in itertools.pairwise(curve))


def test_a_search_on_them_ends_at_a_recorded_error_and_has_a_table(tmp_path):
    about = ["--methods", "random-asha", "bayes", "--seeds", "1", "--workers", "1", "--out", tmp_path]
    run("run.py", "--data", tmp_path, "--curves", CURVES, "--tasks", "clothing", *about)
    recorded = [1 - point["top_1"] for line in LINES for point in line["learning_curve"]]
    for method in ("random-asha", "bayes"):
        [found] = [json.loads(line) for line in (tmp_path / f"{method}.jsonl").read_text().splitlines()]
        errors = [error for _, error in found["steps"]]
        assert errors == sorted(errors, reverse=True)
        assert all(any(error == pytest.approx(e, abs=2e-6) for e in recorded) for error in errors)
        assert found["trials"] > 50  # 50 full trainings' time, and most are stopped
    table = run("table.py", "--results", tmp_path, "--curves", CURVES, "--workers", "1")
    assert "1 seeds, 1 workers" in table
    assert "| random-asha | 1 |" in table
