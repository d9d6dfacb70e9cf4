"""What the results of a sweep depend on, as short hashes in its journal: a change between two attempts is noticed.

search   space, metric, seed, searcher, scheduler: results of others do not belong into one table, so they are refused
data     images, labels and splits: likewise
code     slurmtune's sources and the packages that train: said, and gone on with, since who upgrades means to
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from hpo.config import SweepConfig
from hpo.data.manifest import describe
from hpo.errors import UsageError
from hpo.records import Event

_SEARCH = (  # of resolved.json
    "task",
    "metric",
    "mode",
    "seed",
    "constants",
    "space",
    "points",
    "constraints",
    "objectives",
    "earlier",
)
_TUNE = (  # of its `tune`; the others may change: they move no value
    "searcher",
    "startup_trials",
    "scheduler",
    "reduction_factor",
    "grace_period",
    "asha_type",
    "deterministic",
)
_PACKAGES = ("torch", "timm", "accelerate", "numpy")
_SHORT = 12  # digits of a hash


def search_prints(config: SweepConfig) -> dict[str, str]:
    """A hash for each part of the configuration that no attempt may change, by its name."""
    resolved = config.to_json()
    parts = {name: resolved[name] for name in _SEARCH} | {name: resolved["tune"][name] for name in _TUNE}
    return {name: _hash(json.dumps(value, sort_keys=True, default=str)) for name, value in parts.items()}


def code_versions() -> dict[str, str]:
    """The code that is about to run: the packages' versions, and of our own sources a hash."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    text = "".join(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sources)
    return {"slurmtune": _hash(text), **{name: metadata.version(name) for name in _PACKAGES}}


def check_unchanged(header: Event, config: SweepConfig) -> None:
    """Refuses to go on with a sweep of which something has changed that its results depend on.

    `header`: the journal's first line. What an old one does not hold is not compared.

    Raises:
        UsageError: says what has changed. DataError: the data are gone.
    """
    known = header.get("search") or {}
    changed = [name for name, value in search_prints(config).items() if known.get(name, value) != value]
    if changed:
        raise UsageError(
            f"{', '.join(changed)} in resolved.json changed since the sweep began, and results of both would mix; "
            "restore it, or submit a new sweep."
        )
    now = data_print(config)
    if header.get("data") and now and header["data"] != now:
        raise UsageError(
            f"the data in {config.data} changed since the sweep began (fingerprint {header['data'][:_SHORT]}, now "
            f"{now[:_SHORT]}), and results of both would mix; restore them, or submit a new sweep."
        )


def data_print(config: SweepConfig) -> str:
    """The fingerprint of the data as they are now; '' of bundled ones, which the first job unpacks."""
    return "" if config.bundled else describe(config.data).fingerprint


def describe_change(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """'torch 2.13.0, now 2.14.1'; '' when the code is the same, or nothing is known of before."""
    changed = [name for name in now if before and before.get(name, now[name]) != now[name]]
    return ", ".join(f"{name} {(before or {})[name]}, now {now[name]}" for name in changed)


def last_code(events: list[Event]) -> Mapping[str, str] | None:
    """What the newest attempt that said so ran on."""
    return next((e["code"] for e in reversed(events) if e["type"] == "attempt_started" and e.get("code")), None)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT]
