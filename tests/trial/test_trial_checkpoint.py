"""The store: what is kept, in which order it is written, what a crash leaves behind."""

from __future__ import annotations

import math
import os

import pytest
import torch

from hpo.trial import checkpoint as checkpoint_module
from hpo.trial.checkpoint import Store
from hpo.trial.soup import ranked_checkpoints

VALUES = [0.3, 0.9, 0.5, 0.9, 0.1, 0.7]


def fill(store, values):
    for epoch, value in enumerate(values, start=1):
        store.save(epoch, value, {"weight": torch.full((4,), float(epoch))}, {"epoch": epoch}, {"note": "x"})


@pytest.mark.parametrize(("mode", "kept"), [("max", [2, 4, 6]), ("min", [5, 1, 3])])
def test_keeps_the_best_in_the_direction_of_the_metric(tmp_path, mode, kept):
    store = Store(tmp_path, keep=3, mode=mode)
    fill(store, VALUES)
    assert [checkpoint.epoch for checkpoint in store.ranking()] == kept
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*(f"best-{epoch:04d}" for epoch in kept), "last-0005", "last-0006"}
    for checkpoint in store.ranking():
        assert checkpoint.is_intact()
        assert checkpoint.load_weights()["weight"].tolist() == [checkpoint.epoch] * 4


def test_value_that_is_not_finite_is_never_best(tmp_path):
    store = Store(tmp_path, keep=2, mode="min")
    fill(store, [math.nan, 0.5, -math.inf, math.inf])
    assert [checkpoint.epoch for checkpoint in store.ranking()] == [2]
    assert store.newest().epoch == 4


def test_weights_are_on_disk_once_where_links_are_possible(tmp_path):
    fill(Store(tmp_path, keep=1, mode="max"), [0.5])
    best, last = (tmp_path / f"{kind}-0001" / "weights.safetensors" for kind in ("best", "last"))
    assert best.samefile(last)


def test_weights_are_copied_where_links_are_not(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = Store(tmp_path, keep=1, mode="max")
    fill(store, [0.5])
    assert store.ranking()[0].is_intact()
    assert not (tmp_path / "best-0001" / "weights.safetensors").samefile(tmp_path / "last-0001" / "weights.safetensors")


def test_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    """At each step of a save, in turn, the process is gone: a complete checkpoint is always found afterwards."""
    steps = ["save_file", "_fingerprint", "_link_or_copy", "write_json", "sync_folder"]
    for place, step in enumerate(steps):
        folder = tmp_path / str(place)
        fill(Store(folder, keep=1, mode="max"), [0.1, 0.2])
        with monkeypatch.context() as patch:

            def crash(*_):
                raise KeyboardInterrupt

            patch.setattr(checkpoint_module, step, crash)
            with pytest.raises(KeyboardInterrupt):
                Store(folder, keep=1, mode="max").save(3, 0.3, {"weight": torch.ones(4)}, {"epoch": 3}, {})
        after = Store(folder, keep=1, mode="max")
        after.clear()
        assert after.newest().load_state() == {"epoch": 2}, step
        assert not list(folder.glob(".tmp-*")), step
        assert after.ranking()[0].epoch in (2, 3), step


def test_whoever_reads_leaves_alone_what_is_being_written(tmp_path, monkeypatch):
    """A model is exported while its trial writes the next checkpoint."""
    store, seen = Store(tmp_path / "checkpoint", keep=1, mode="max"), []
    fill(store, [0.1])
    fingerprint = checkpoint_module._fingerprint

    def read_meanwhile(path):
        monkeypatch.setattr(checkpoint_module, "_fingerprint", fingerprint)
        seen.extend(ranked_checkpoints(tmp_path, "max"))
        return fingerprint(path)

    monkeypatch.setattr(checkpoint_module, "_fingerprint", read_meanwhile)
    store.save(2, 0.2, {"weight": torch.ones(4)}, {"epoch": 2}, {})
    assert [checkpoint.epoch for checkpoint in seen] == [1]
    assert store.newest().epoch == 2


def test_tied_and_strided_tensors_come_back(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    weights = {"a": tied, "b": tied, "c": tied.t(), "d": torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last)}
    store = Store(tmp_path, keep=1, mode="max")
    store.save(1, 0.5, weights, {}, {})
    loaded = store.newest().load_weights()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_state_that_would_execute_code_is_not_loaded(tmp_path):
    store = Store(tmp_path, keep=1, mode="max")
    store.save(1, 0.5, {"weight": torch.ones(1)}, {"path": os.PathLike}, {})
    with pytest.raises(Exception, match="Weights only load failed"):
        store.newest().load_state()
