"""What a job's process says and ends with when there can be no attempt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.layout import SweepDirectory, write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def directory(tmp_path):
    """A sweep's directory on which `run` can be called."""
    made = SweepDirectory(tmp_path)
    made.secrets.mkdir(mode=0o700)
    for path in (made.token, made.journal):
        path.touch(mode=0o600)
    write_json(made.resolved, {})
    return made


def run(directory, *flags, rank=0):
    """The process that srun starts on a host."""
    environ = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_PROCID": str(rank), "SLURMTUNE_ATTEMPT": "abc"}
    command = [sys.executable, "-m", "hpo.cluster.attempt", *flags, str(directory.root)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


@pytest.mark.parametrize(("flags", "rank", "code"), [((), 0, 104), ((), 1, 4), (("--worker",), 0, 4)])
def test_a_file_system_that_fails_is_said_on_one_line(directory, flags, rank, code):
    """Rank 0, which could not write it down, adds 100 to its code for the batch script."""
    directory.attempts.touch()  # where a folder should be
    done = run(directory, *flags, rank=rank)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if "error" in line]
    assert f"{directory.attempts}" in line
    assert "--resume" in line


def test_a_torn_resolved_json_is_said_on_one_line(directory):
    directory.resolved.write_text('{"name": ')
    done = run(directory)
    assert done.returncode == 102
    assert done.stderr.splitlines()[-1].startswith(f"slurmtune: error: {directory.resolved} is not readable JSON")
