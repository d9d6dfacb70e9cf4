"""environment.yml brings a Python that pyproject.toml takes, and repeats nothing that stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
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
