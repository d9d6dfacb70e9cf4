"""docs/automm.md: each test that it names is there, and each of its Python blocks is Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "automm.md").read_text(encoding="utf-8")


def test_every_test_it_names_exists():
    named = re.findall(r"`((?:tests/\w+/)?test_\w+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 25
    for file, function in named:
        path = ROOT / file if "/" in file else next((ROOT / "tests").glob(f"*/{file}"))
        assert f"def {function}" in path.read_text(encoding="utf-8"), (file, function)


def test_its_blocks_are_python():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        ast.parse(block)
