"""When a sweep ends before its last trial: its target is reached, or nothing has become better for long.

    target    the metric has reached this value: trials at work end with their next epoch
    plateau   as many trials have ended, one after the other, without a new best value: those at work go on

Both are folds of the journal; the sweep writes the rule that held as an event of type `ending`.
"""

from __future__ import annotations

from hpo.config import SweepConfig
from hpo.records import Event


class Ending:
    """Watches for the end of one sweep."""

    def __init__(self, config: SweepConfig) -> None:
        self._metric, self._sign = config.metric, 1 if config.mode == "max" else -1
        self._target, self._plateau = config.tune.target, config.tune.plateau
        self._best: float | None = None
        self._ended_since = 0

    def fold(self, event: Event) -> None:
        if event["type"] == "reported":
            value = event["metrics"].get(self._metric)
            if value is not None and (self._best is None or self._sign * value > self._sign * self._best):
                self._best, self._ended_since = value, 0
        elif event["type"] == "finished":
            self._ended_since += 1

    def rule(self) -> tuple[str, str] | None:
        """The name of the rule that holds now and a sentence on it; None while none does."""
        if self._best is None:
            return None
        if self._target is not None and self._sign * self._best >= self._sign * self._target:
            return "target", f"target: {self._metric} {self._best:.6g} has reached {self._target:g}"
        if self._plateau is not None and self._ended_since >= self._plateau:
            return (
                "plateau",
                f"plateau: {self._ended_since} trials in a row were not better than {self._best:.6g}",
            )
        return None
