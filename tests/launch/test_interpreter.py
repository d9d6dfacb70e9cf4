"""A Python that has some of the packages is told apart from one that has all, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_python_with_a_part_of_the_packages(tmp_path: Path) -> None:
    """submitit without ruamel.yaml, whose parent package is missing too."""
    (tmp_path / "submitit.py").touch()
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from launch.interpreter import use_project_environment; use_project_environment()"
    )
    environ = {"SLURMTUNE_REEXECUTED": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"slurmtune: {sys.executable} lacks this project's packages; run `make")
    assert len(done.stderr.splitlines()) == 1
