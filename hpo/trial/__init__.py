"""The trial room: one configuration trained on shards, with Accelerate, without Ray. Importing it costs nothing.

training    Training: epoch by epoch                  loop        train: all of them
compute     one update, in the memory there is        device      accelerator, precision, threads
loader      batches, read ahead                       augment     which part of each image is shown
compilation torch.compile                     compilecache  what it made, shared by the nodes of a sweep
saves       what an epoch leaves              paused      trainings that wait in memory
wear        when a warm process is replaced
rank        one of several processes          group       all of them, and who starts them
order       in which order, from any batch on         buffers     their memory
render      its pixels, on the host or a GPU          randomness  numbers that need no saved state
model, weights, optimizer, task                       checkpoint  what a trial goes on from
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.trial.loop import TrialResult, train
    from hpo.trial.training import Training

__all__ = ["Training", "TrialResult", "train"]


def __getattr__(name: str) -> Any:
    """Training, TrialResult and train, with torch behind them, on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpo.trial import loop

    return getattr(loop, name)
