"""What a person sees of a sweep on this machine, on a real (pseudo) terminal."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ray
def test_a_terminal_gets_one_line_that_is_redrawn(tmp_path, write_sweep):
    path = write_sweep(tmp_path, trials=2, epochs=2)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="60", TERM="xterm")
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(path), "--cluster", "local"]
        os.execv(sys.executable, [*command, "--run-dir", str(tmp_path / "run")])
    seen = b""
    try:
        while chunk := os.read(terminal, 4096):
            seen += chunk
    except OSError:
        pass  # the other side has gone: how a pseudo-terminal says end of file
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    drawn = [line for line in seen.decode().split("\r\x1b[K") if "trials ended" in line]
    assert len(drawn) > 2
    assert all(len(line.splitlines()[0]) < 60 for line in drawn)
    assert re.search(r"\x1b\[1m", seen.decode())  # the table's heading is bold


def test_a_users_choice_of_gpus_reaches_the_job(tmp_path, monkeypatch):
    from hpo.cluster.attempt import DEVICES, Attempt

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(DEVICES, "GPU-3f,GPU-9a")
    with pytest.raises(SystemExit):  # which says that this is not a sweep's directory
        Attempt(str(tmp_path))()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-3f,GPU-9a"
