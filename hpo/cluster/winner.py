"""Copies the best trial's weights and configuration to DIR/best, where they stay whatever becomes of the trial."""

from __future__ import annotations

import os
import shutil

from hpo.config import SweepConfig
from hpo.layout import SweepDirectory, sync_folder, write_json
from hpo.records import SweepState


def save_winner(directory: SweepDirectory, state: SweepState, config: SweepConfig) -> None:
    """Writes best/config.json, and best/weights.safetensors where the trial's best epoch is still at hand."""
    winner = state.incumbent()
    if winner is None or winner.best is None:
        return
    epoch, value = winner.best
    fresh = directory.root / f".best.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
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
    checkpoint = directory.checkpoints(winner.id) / f"best-{epoch:04d}"
    if checkpoint.is_dir():
        for name in ("weights.safetensors", "meta.json"):
            if (checkpoint / name).is_file():
                shutil.copy2(checkpoint / name, fresh / name)
    old = directory.root / f".best.{os.getpid()}.old"
    if directory.best.exists():
        directory.best.rename(old)
    fresh.rename(directory.best)
    sync_folder(directory.root)
    shutil.rmtree(old, ignore_errors=True)
