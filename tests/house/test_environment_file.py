"""environment.yml, requirements.lock, the Apptainer definition and docs/support.md say what pyproject.toml says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_environment_and_project_agree():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = YAML(typ="safe").load(ROOT / "environment.yml")
    assert environment["name"] == project["name"]
    assert environment["channels"] == ["conda-forge"]
    python, *rest = environment["dependencies"]
    assert rest == ["pip", {"pip": ["-e ."]}]  # so no dependency is named twice
    version = re.fullmatch(r"python=3\.(\d+)", python).group(1)
    oldest = re.fullmatch(r">=3\.(\d+)", project["requires-python"]).group(1)
    assert int(version) >= int(oldest)
    for dependency in project["dependencies"]:
        assert re.search(r"[<>=]", dependency), f"{dependency} is not held to a range"


SUPPORTED = ("3.10", "3.11", "3.12", "3.13")


def dependencies():
    """The packages that slurmtune needs, with their ranges."""
    block = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]")[0]
    return [Requirement(text) for text in re.findall(r'^\s*"([^"]+)"', block, re.MULTILINE)]


def locked(python):
    """package -> version in requirements.lock, for a Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.4", "sys_platform": "linux",
                   "platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython",
                   "platform_python_implementation": "CPython", "os_name": "posix"}  # fmt: skip
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for requirement in map(Requirement, lines):
        [pin] = requirement.specifier
        assert pin.operator == "=="
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in found
            found[requirement.name] = pin.version
    return found


@pytest.mark.parametrize("python", SUPPORTED)
def test_the_lock_file_has_every_dependency_in_its_range(python):
    found = locked(python)
    assert len(dependencies()) >= 15
    for dependency in dependencies():
        assert found.get(canonicalize_name(dependency.name)) in dependency.specifier, dependency
    for name in ("pydantic", "sqlalchemy", "huggingface-hub", "packaging"):  # what those need is in it too
        assert name in found


def sections(text):
    """%post and the like of an Apptainer definition."""
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_apptainer_definition_installs_the_lock_file():
    parts = sections((ROOT / "slurm" / "slurmtune.def").read_text())
    python = re.search(r"^From: python:(3\.\d+)", parts[""], re.MULTILINE).group(1)
    assert python in SUPPORTED
    source, target = parts["files"].split()
    assert (ROOT / source).is_file()
    assert f"--requirement {target}" in parts["post"]
    tested = set(re.search(r"import ([\w, ]+)'", parts["test"]).group(1).split(", "))
    assert tested <= {dependency.name for dependency in dependencies()} | {"ray"}
    for name in ("post", "environment", "runscript", "test"):
        done = subprocess.run(["sh", "-n"], input=parts[name], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_is_said_to_be_supported_is_what_pyproject_takes():
    rows = re.findall(
        r"^\| ([\w.]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "support.md").read_text(), re.MULTILINE
    )
    table = {name.lower(): (supported.strip(), tested.strip()) for name, supported, tested in rows}
    assert table["python"][0] == f"{SUPPORTED[0]} to {SUPPORTED[-1]}"
    assert table["python"][1] in SUPPORTED
    ranges = {dependency.name: dependency.specifier for dependency in dependencies()}
    for name in ("torch", "torchvision", "timm", "accelerate", "ray", "optuna"):
        supported, tested = table[name]
        assert tested == locked(table["python"][1])[name]
        assert tested in ranges[name]
        least, _, most = supported.partition(" to ")
        assert least in ranges[name]
        lower = next(pin.version for pin in ranges[name] if pin.operator == ">=")
        assert least == lower
        upper = next(pin.version for pin in ranges[name] if pin.operator == "<")
        assert numbers(most or least) < numbers(upper)
        assert tested.startswith(most or least)


def numbers(version):
    return [int(part) for part in version.split(".")]
