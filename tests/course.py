"""What two sweeps are compared by: all that was suggested, decided and trained, without times and hosts."""

from __future__ import annotations

_KEPT = {
    "suggested": ("trial", "params", "origin", "note"),
    "decided": ("trial", "epoch", "rung", "action", "value", "cutoff", "rank", "of"),
    "reviewed": ("trial", "epoch", "rung", "action", "value", "cutoff", "rank", "of"),
    "finished": ("trial", "state", "reason"),
    "ending": ("rule", "reason"),
}
_TIMES = ("seconds", "images_per_second", "host")


def course(events):
    """All that was suggested, decided and came of it, in its order."""
    kept = [event for event in events if event["type"] in _KEPT]
    return [(e["type"], *(e.get(name) for name in _KEPT[e["type"]])) for e in kept]


def curves(events):
    """(trial, epoch) -> its metrics as last reported."""
    reports = [event for event in events if event["type"] == "reported"]
    return {(e["trial"], e["epoch"]): {k: v for k, v in e["metrics"].items() if k not in _TIMES} for e in reports}
