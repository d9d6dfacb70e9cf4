"""What was found out once and need not be again: small JSON files below $XDG_CACHE_HOME/slurmtune, 0600 in 0700."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpo.layout import write_json


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/slurmtune, else ~/.cache/slurmtune."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "slurmtune"


class Cache:
    """JSON values by JSON keys, of one `kind`. What cannot be read or written counts as not there: it is made again."""

    def __init__(self, kind: str) -> None:
        self._folder = cache_folder() / kind

    def get(self, key: Any) -> Any | None:
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return entry.get("value") if isinstance(entry, dict) and entry.get("key") == _plain(key) else None

    def put(self, key: Any, value: Any) -> None:
        """Keeps `value`. A home without room is no reason to stop: the next one finds it out again."""
        with suppress(OSError):
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(self._path(key), {"key": _plain(key), "value": value}, mode=0o600)

    def _path(self, key: Any) -> Path:
        text = json.dumps(_plain(key), sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _plain(value: Any) -> Any:
    """As it reads back: tuples become lists."""
    return json.loads(json.dumps(value))
