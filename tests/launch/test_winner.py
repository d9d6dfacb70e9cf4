"""DIR/best: the winner's weights stay whatever becomes of its trial, and nothing is left beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

from hpo.cluster.winner import save_winner
from hpo.config import SweepConfig
from hpo.layout import SweepDirectory, read_json
from hpo.records import SweepState, read_events


def test_the_winners_weights_outlive_its_checkpoint(trained_sweep: Path, tmp_path: Path) -> None:
    """As when a sweep is extended after its trials' checkpoints were removed."""
    root = shutil.copytree(trained_sweep, tmp_path / "copy")
    directory, state = SweepDirectory(root), SweepState(read_events(root / "journal.jsonl"))
    config = SweepConfig.from_json(read_json(directory.resolved))
    before = (directory.best / "weights.safetensors").read_bytes()
    (root / ".best.4711.old").mkdir()  # of a process that was killed
    save_winner(directory, state, config)
    assert (directory.best / "weights.safetensors").read_bytes() == before
    assert list(root.glob(".best*")) == []
    winner = state.incumbent()
    assert winner is not None
    shutil.rmtree(directory.checkpoints(winner.id))
    save_winner(directory, state, config)
    assert (directory.best / "weights.safetensors").read_bytes() == before
    assert read_json(directory.best / "config.json")["trial"] == winner.id
