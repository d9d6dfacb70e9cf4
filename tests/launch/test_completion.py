"""Completion in the shells themselves, and that slurmtune has every command of launch/."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import cli
from launch.completion import SHELLS, main

ROOT = Path(__file__).resolve().parents[2]


def scripts():
    """The files of launch/ that are commands."""
    found = {path.stem for path in (ROOT / "launch").glob("*.py") if "SystemExit(main())" in path.read_text()}
    return sorted(found - {"cli"})


def test_slurmtune_has_every_script():
    assert sorted(cli.COMMANDS) == scripts()


@pytest.mark.parametrize("name", scripts())
def test_slurmtune_and_the_script_say_the_same(name, capsys, monkeypatch):
    said = []
    for run in (lambda: importlib.import_module(f"launch.{name}").main(["--help"]), cli.main):
        monkeypatch.setattr(sys, "argv", ["slurmtune", name, "--help"])
        with pytest.raises(SystemExit) as end:
            run()
        assert not end.value.code
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "example" in said[0]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """script(shell) -> the file with its completion."""

    def write(shell):
        path = tmp_path_factory.mktemp(shell) / f"_slurmtune.{shell}"
        command = [sys.executable, ROOT / "launch" / "completion.py", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        path.write_text(done.stdout)
        return path

    return write


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_it(shell, script):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n", script(shell)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def complete_in_bash(path, *words):
    code = (
        f"source {path}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        "$(complete -p slurmtune | sed -n 's/.*-F \\([^ ]*\\) .*/\\1/p'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()


def test_bash_completes_commands_and_flags(script):
    path = script("bash")
    assert complete_in_bash(path, "slurmtune", "pre") == ["prepare", "prefetch", "predict"]
    assert "--partition" in complete_in_bash(path, "slurmtune", "submit", "--par")
    assert complete_in_bash(path, "slurmtune", "doctor", "--no-j") == ["--no-jobs"]


def test_fish_completes_commands_and_flags(script):
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    code = f"source {script('fish')}; complete -C 'slurmtune submit --gpus-p'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--gpus-per-node" in done.stdout


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["tcl"])
    assert "invalid choice" in capsys.readouterr().err
