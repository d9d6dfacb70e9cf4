"""docs/formats.md, applied to the directories of real sweeps."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text()
_PLACES = re.compile(r"\b(?:ID|NAME|JOB|N)\b")


def described() -> list[str]:
    """The page's rows as patterns; a folder's stands for all that is in it."""
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    patterns = [_PLACES.sub("*", row) for row in rows]
    return [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]


def undescribed(sweep: Path) -> list[str]:
    """Files of `sweep` that no row of the page describes."""
    names = [str(path.relative_to(sweep)) for path in sweep.rglob("*") if path.is_file()]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in described())]
