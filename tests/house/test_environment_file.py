"""environment.yml repeats nothing that pyproject.toml says."""

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
    python, pip, nested = environment["dependencies"]
    assert python.removeprefix("python").startswith(project["requires-python"])
    assert pip == "pip"
    assert nested == {"pip": ["-e ."]}
    text = (ROOT / "environment.yml").read_text()
    for dependency in project["dependencies"]:
        name = re.match(r"[\w.-]+", dependency).group()
        assert not re.search(rf"^\s*- {name}\b", text, re.MULTILINE)
        assert re.search(r"[<>=]", dependency), f"{dependency} is not held to a range"
