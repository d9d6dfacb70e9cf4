"""Finds the Python that has the project's packages. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_MARK = "SLURMTUNE_REEXECUTED"  # stops a broken .venv from executing itself for ever


def use_project_environment() -> None:
    """Goes on if this Python has the project's packages; else starts this command again with the checkout's .venv.

    Exits with 2 and one line that names `make` when there is no such environment.
    """
    if all(map(_is_there, ("submitit", "ruamel.yaml", "h5py"))):
        return
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and _MARK not in os.environ:
        os.environ[_MARK] = "1"
        os.execv(python, [str(python), *sys.argv])
    sys.stderr.write(
        f"slurmtune: {sys.executable} lacks this project's packages; run `make -C {ROOT} .venv` once, "
        "or activate the environment that has them.\n"
    )
    raise SystemExit(2)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False


def prefer_project_environment() -> None:
    """As use_project_environment where there is a .venv; without one this Python goes on with what it has."""
    if (ROOT / ".venv" / "bin" / "python").exists() and _MARK not in os.environ:
        use_project_environment()
