"""Results of a benchmark as JSON lines in a file, so that it can be measured in pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """Those of the pieces before; [] without a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []


def add_row(path: Path | None, row: dict[str, Any]) -> None:
    """Appends `row`, if results are kept at all."""
    if path:
        with path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
