"""A sweep's checkpoints within a budget of bytes while it runs: `checkpoint_budget_gb` of hyperparameter_tune_kwargs.

When they take more, those go that are needed least: of trials that have ended, worst first, what one would go on from
(`last-*`), then the weights of their best epochs. The best trial's weights stay, as does all of a trial that may still
go on; launch/clean.py makes more room afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from hpo.layout import SweepDirectory
from hpo.records import Event, SweepState, Trial
from hpo.results.leftovers import checkpoint_folders, checkpoint_size, remove_checkpoint

_GB = 10**9


class CheckpointBudget:
    """Is told every event of the journal and removes checkpoints when all of them together take over `gigabytes`.

    `say` takes a line for the driver's log.
    """

    def __init__(self, directory: SweepDirectory, gigabytes: float, say: Callable[[str], None]) -> None:
        self._directory, self._budget, self._say = directory, int(gigabytes * _GB), say
        self._sizes: dict[str, int] = {}
        self._total, self._complained = 0, False

    def watch(self, event: Event, state: SweepState) -> None:
        """Takes one event; `state` is the fold of the journal with it."""
        if event["type"] == "attempt_started":
            for trial in state.trials:
                self._measure(trial)
        elif event["type"] in ("checkpointed", "finished"):
            self._measure(event["trial"])
        else:
            return
        if self._total > self._budget:
            self._free(state)

    def _measure(self, trial: str) -> None:
        size = sum(checkpoint_size(path)[1] for _, path in checkpoint_folders(self._directory.checkpoints(trial)))
        self._total += size - self._sizes.get(trial, 0)
        self._sizes[trial] = size

    def _free(self, state: SweepState) -> None:
        ranked = [trial for trial in state.ranking() if trial.finished]
        worthless = [trial for trial in state.trials.values() if trial.finished and not trial.best]
        worst_first = [*worthless, *reversed(ranked)]
        best = state.incumbent()
        removed = self._remove("last", worst_first)
        removed += self._remove("best", [trial for trial in worst_first if trial is not best])
        if removed:
            self._say(f"removed {removed} checkpoints to keep within checkpoint_budget_gb {self._budget / _GB:g}")
        elif not self._complained:
            self._complained = True
            self._say(
                f"checkpoints take {self._total / _GB:.2f} GB, over checkpoint_budget_gb {self._budget / _GB:g}: "
                "only those of the best trial and of trials that go on are left"
            )

    def _remove(self, kind: str, trials: list[Trial]) -> int:
        """Removes checkpoints of this kind, trial by trial, until the rest is within the budget."""
        count = 0
        for trial in trials:
            for found, path in checkpoint_folders(self._directory.checkpoints(trial.id)):
                if self._total <= self._budget:
                    return count
                if found == kind:
                    with suppress(OSError):  # a checkpoint that cannot go is no reason to end the sweep
                        remove_checkpoint(path)
                        count += 1
                    self._measure(trial.id)
        return count
