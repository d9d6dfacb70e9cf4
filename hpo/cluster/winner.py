"""Copies the best trial's weights and configuration to DIR/best, where they stay whatever becomes of the trial."""

from __future__ import annotations

import shutil
from pathlib import Path

from hpo.config import SweepConfig
from hpo.layout import SweepDirectory, read_json, sync_folder, write_json
from hpo.records import SweepState

_WEIGHTS = "weights.safetensors"


def save_winner(directory: SweepDirectory, state: SweepState, config: SweepConfig) -> None:
    """Writes best/config.json, and best/weights.safetensors where the trial's best epoch is still at hand."""
    winner = state.incumbent()
    if winner is None or winner.best is None:
        return
    epoch, value = winner.best
    checkpoint = directory.checkpoints(winner.id) / f"best-{epoch:04d}"
    if not (checkpoint / _WEIGHTS).is_file() and _is_saved(directory.best, winner.id, epoch):
        return  # its checkpoint has been removed since
    for left in directory.root.glob(".best.*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    fresh = directory.root / ".best.new"
    fresh.mkdir(mode=0o700)
    full = config.trial(winner.params).to_flat(config.has_table)
    write_json(
        fresh / "config.json",
        {
            "trial": winner.id,
            "epoch": epoch,
            config.metric: value,
            "data": str(config.data),
            "params": winner.params,
            "config": full,
        },
    )
    for name in (_WEIGHTS, "meta.json"):
        if (checkpoint / name).is_file():
            shutil.copy2(checkpoint / name, fresh / name)
    old = directory.root / ".best.old"
    if directory.best.exists():
        directory.best.rename(old)
    fresh.rename(directory.best)
    sync_folder(directory.root)
    shutil.rmtree(old, ignore_errors=True)


def _is_saved(best: Path, trial: str, epoch: int) -> bool:
    """Whether the weights of that epoch are there from an earlier attempt."""
    if not (best / _WEIGHTS).is_file() or not (best / "config.json").is_file():
        return False
    there = read_json(best / "config.json")
    return bool((there["trial"], there["epoch"]) == (trial, epoch))
