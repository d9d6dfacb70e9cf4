"""Paused trials whose model stays in the memory of a warm process, so that going on there reloads nothing.

    SLURMTUNE_PAUSED_MB   MiB that they may take together, on the host or the GPU (512); 0 keeps none

Each has its checkpoint as well, from which it goes on anywhere else, or here when it had to make room.
"""

from __future__ import annotations

from collections import OrderedDict

from hpo.trial.training import Training
from hpo.trial.wear import whole

PAUSED_VARIABLE = "SLURMTUNE_PAUSED_MB"
_PAUSED_MB = 512


class PausedTrainings:
    """By trial; the one paused longest ago goes first."""

    def __init__(self) -> None:
        self._room = whole(PAUSED_VARIABLE, _PAUSED_MB, 0) * 2**20
        self._held: OrderedDict[str, Training] = OrderedDict()

    @property
    def bytes(self) -> int:
        return sum(training.resident_bytes for training in self._held.values())

    def put(self, trial: str, training: Training) -> None:
        """Suspends `training`, or closes it if it takes more room than there is."""
        if training.finished or not training.epoch or training.resident_bytes > self._room:
            training.close()
            return
        training.suspend()
        self._held[trial] = training
        while self.bytes > self._room:
            self._held.popitem(last=False)[1].close()

    def take(self, trial: str) -> Training | None:
        """The training of `trial`, still suspended; None if it is not here, or has gone on elsewhere meanwhile."""
        training = self._held.pop(trial, None)
        if training is not None and not training.is_newest:
            training.close()
            return None
        return training

    def close(self) -> None:
        while self._held:
            self._held.popitem()[1].close()
