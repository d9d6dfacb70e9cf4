"""check.py at the real SLURM of tests/slurm_cluster: nothing speaks against a sound request, and what does is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import check

ROOT = Path(__file__).resolve().parents[2]
SWEEP = str(ROOT / "launch" / "demo" / "sweep.yaml")


@pytest.fixture
def look(slurm_cluster, tmp_path, capsys, monkeypatch):
    """Runs check.py; exit code and findings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        code = check.main([SWEEP, "--json", *flags])
        return code, json.loads(capsys.readouterr().out)["findings"]

    return run


@pytest.mark.slurm
def test_a_sound_sweep_and_wrong_requests(look):
    code, findings = look("--partition", "gpu", "--nodes", "2", "--gpus-per-node", "2")
    assert code == 0, findings
    assert [f["text"] for f in findings if f["topic"] == "site" and f["level"] == "ok"] == [
        "partition gpu: SLURM knows nothing against it"
    ]
    assert {f["topic"] for f in findings if f["level"] == "ok"} == {"search", "data", "directory", "site", "models"}
    for flags, words in (
        (["--qos", "norml"], "Did you mean 'normal'"),
        (["--constraint", "fast"], "has the feature 'fast'"),
        (["--mem", "9G"], "8000 MB"),
        (["--partition", "debug", "--time", "1:00:00"], "at most 10 minutes"),
        (["--partition", "gpus"], "Did you mean 'gpu'"),
    ):
        code, findings = look(*flags)
        [error] = [f for f in findings if f["level"] == "error"]
        assert (code, error["topic"]) == (2, "site")
        assert words in error["text"]


def test_the_checks_of_a_sound_sweep_import_nothing_heavy(tmp_path):
    code = (
        "import sys; from launch import check\n"
        f"code = check.main([{SWEEP!r}, '--cluster', 'local'])\n"
        "print(code, sorted({'ray', 'torch', 'timm', 'optuna'} & set(sys.modules)))"
    )
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True,
                          timeout=300, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"
