"""Is the Python that submits, and that jobs use, the one that slurmtune wants?"""

from __future__ import annotations

import os
import re
import site
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from hpo.check.findings import Findings
from hpo.errors import ClusterError

TOPIC = "environment"
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_MODULES = ("torch", "torchvision", "timm", "accelerate", "h5py", "numpy", "ray", "submitit", "optuna")
_REMEDY = "run `make .venv`, or `pip install -e .` in the environment that you use"


def check_environment(findings: Findings) -> None:
    before = len(findings.errors)
    for check in (_check_packages, _check_pair, _check_shadows):
        with findings.on(TOPIC):
            check()
    if len(findings.errors) == before:
        findings.ok(TOPIC, f"Python {sys.version.split()[0]} in {sys.prefix} has every package in its range")


def _check_packages() -> None:
    """Every dependency of pyproject.toml is there, in its range."""
    wrong = []
    for name, least, below in read_ranges(_PROJECT.read_text(encoding="utf-8")):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if numbers(version) < numbers(least) or (below and numbers(version) >= numbers(below)):
            wrong.append(f"{name} is {version}, not {least} or newer{f' and older than {below}' if below else ''}")
    if wrong:
        raise ClusterError(f"{'; '.join(wrong)} ({sys.executable}): {_REMEDY}.")


def read_ranges(project: str) -> list[tuple[str, str, str]]:
    """(name, oldest, first too new or '') of the dependencies in pyproject.toml."""
    block = project.partition("\ndependencies = [")[2].partition("\n]")[0]
    found = re.findall(r'"([A-Za-z0-9_.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,<([\d.]+))?"', block)
    return [(name, least, below) for name, least, below in found]


def numbers(version: str) -> tuple[int, ...]:
    """'2.14.1+cu130' as (2, 14, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _check_pair() -> None:
    """torchvision's minor version is torch's and 15: another one was made for another torch, and does not load."""
    try:
        torch, vision = numbers(metadata.version("torch")), numbers(metadata.version("torchvision"))
    except metadata.PackageNotFoundError:
        return  # said already
    if vision[1] != torch[1] + 15:
        fit = f"torchvision 0.{torch[1] + 15}"
        raise ClusterError(
            f"torchvision {metadata.version('torchvision')} is not made for torch {metadata.version('torch')}, which "
            f"goes with {fit}: install both in one command, pip install 'torch=={metadata.version('torch')}' "
            f"'torchvision==0.{torch[1] + 15}.*'."
        )


def _check_shadows() -> None:
    """A package from PYTHONPATH or ~/.local hides the environment's own."""
    own = site.getusersitepackages()
    added = [str(Path(part).absolute()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    for name in _MODULES:
        spec = PathFinder.find_spec(name)  # also where this process has imported the other one
        place = str(Path(spec.origin).parents[1]) if spec and spec.origin else ""
        if place and place in added:
            raise ClusterError(
                f"{name} comes from {place}, which PYTHONPATH names, not from {sys.prefix}: unset PYTHONPATH."
            )
        if place and place == own and sys.prefix != sys.base_prefix:
            raise ClusterError(f"{name} comes from {place}, not from {sys.prefix}: export PYTHONNOUSERSITE=1.")
