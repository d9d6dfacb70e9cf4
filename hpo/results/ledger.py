"""What the time was spent on: trials that counted, trials that failed, and nobody; and what early stopping saved.

Counted in GPU-hours where the nodes had GPUs, else in CPU-hours. How many a node had stands in attempts/ID/head.json;
without it (an old copy, the journal alone) in node-hours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.results.read import Results, Row


@dataclass(frozen=True)
class Ledger:
    """Hours of `unit`. allocated = useful + stopped + failed + idle; `saved` was never spent; `workers` now or last."""

    unit: str  # GPU-hours, CPU-hours or node-hours
    allocated: float
    useful: float  # trials that completed, run or wait
    stopped: float  # trials that ASHA stopped: what its decisions cost
    failed: float  # trials that failed or diverged
    idle: float
    saved: float
    workers: int
    over: bool = True  # nothing is at work or waits

    @property
    def idle_share(self) -> float:
        return self.idle / self.allocated if self.allocated else 0.0


def read_ledger(results: Results) -> Ledger:
    """The ledger of a sweep, from its journal's times and what each attempt said of its nodes."""
    allocated, unit, per_trial, workers = 0.0, "node-hours", 1.0, 0
    for attempt in results.attempts:
        head = _read_head(results, attempt.id)
        workers = int(attempt.nodes) if attempt.nodes.isdecimal() else len(attempt.nodes.split(", "))
        unit, units, per_trial = _units(head, results.settings.get("tune", {}))
        allocated += attempt.seconds / 3600 * units * workers
    hours = {row.trial: row.seconds / 3600 * per_trial for row in results.rows}

    def of(*states: str) -> float:
        return sum(hours[row.trial] for row in results.rows if row.state in states)

    stopped, failed = of("stopped"), of("failed", "diverged")
    useful = sum(hours.values()) - stopped - failed
    idle = max(0.0, allocated - sum(hours.values())) if unit != "node-hours" else 0.0
    saved = sum(_saved(row) * per_trial for row in results.rows if row.state == "stopped")
    return Ledger(unit, allocated, useful, stopped, failed, idle, saved, workers, results.status == "ended")


def _units(head: Mapping[str, Any], tune: Mapping[str, Any]) -> tuple[str, float, float]:
    """Unit, how many a node has, how many a trial holds (as hpo.cluster.driver shares them out)."""
    if not head:
        return "node-hours", 1.0, 0.0
    gpus, cpus = float(head.get("gpus") or 0), float(head.get("cpus") or 1)
    if gpus:
        wanted, processes = tune.get("gpus_per_trial"), tune.get("num_processes") or tune.get("num_nodes") or 1
        return "GPU-hours", gpus, float(processes if wanted is None else wanted)
    wanted = tune.get("cpus_per_trial")
    return "CPU-hours", cpus, float(1 if wanted is None else wanted)


def _read_head(results: Results, attempt: str) -> dict[str, Any]:
    try:
        found = json.loads((results.directory.attempt(attempt) / "head.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _saved(row: Row) -> float:
    """Hours that the rest of a stopped trial would have taken, at its own pace."""
    return row.seconds / 3600 / row.epochs * max(0, (row.max_epochs or 0) - row.epochs) if row.epochs else 0.0


def ledger_line(ledger: Ledger) -> str:
    """'3.2 GPU-hours: 71 % on trials that counted, ...'; '' where nothing ran."""
    if not ledger.allocated:
        return ""
    whole = f"{hours_text(ledger.allocated)} {ledger.unit}"
    if ledger.unit == "node-hours":
        return f"{whole} (the attempts' head.json are missing: no more is known)."
    useful = "on trials that went the whole way" + ("" if ledger.over else " or are on it")
    parts = ((useful, ledger.useful), ("on stopped ones", ledger.stopped),
             ("lost to failures", ledger.failed), ("idle", ledger.idle))  # fmt: skip
    shares = ", ".join(f"{hours / ledger.allocated:.0%} {what}" for what, hours in parts if hours)
    saved = f" Early stopping saved about {hours_text(ledger.saved)}." if ledger.saved else ""
    return f"{whole}: {shares}.{saved}"


def hours_text(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}"
