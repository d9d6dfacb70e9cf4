"""From a sweep's files to one model: which trial, which epochs, and an average that is never worse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hpo.config import SweepConfig
from hpo.errors import SweepError, TrialError
from hpo.layout import SweepDirectory, read_json, write_json
from hpo.predictor.outcome import finish
from hpo.predictor.record import PredictorFiles, Record
from hpo.records import Journal, read_events
from hpo.search.sweep import Sweep
from hpo.trial.checkpoint import Store
from hpo.trial.inference import TrainedModel
from hpo.trial.soup import _greedy, _Kitchen, ranked_checkpoints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(fitted, tmp_path):
    """A copy of the small fit's directory, without its model."""
    files = PredictorFiles(tmp_path / "run")
    shutil.copytree(fitted.path, files.root)
    files.weights.unlink()
    files.model.unlink()
    return files


def again(run, curves, mode="max", metric="val_accuracy"):
    """The sweep told anew: trials with these curves, each with the real checkpoints of the small fit by its values."""
    resolved = read_json(run.sweep.resolved)
    resolved |= {"metric": metric, "mode": mode, "num_trials": len(curves)}
    resolved["tune"] |= {"num_trials": len(curves), "scheduler": "FIFO", "num_to_keep": 2}
    write_json(run.sweep.resolved, resolved)
    old = ranked_checkpoints(run.sweep.trial("0000"), "max")
    weights, meta = [c.load_weights() for c in old], old[0].load_meta()
    meta = {name: value for name, value in meta.items() if name not in ("value", "epoch")} | {
        "metric": metric,
        "mode": mode,
    }
    shutil.rmtree(run.root / "trials")
    run.sweep.journal.unlink()
    sweep = Sweep(SweepConfig.from_json(resolved), Journal(run.sweep.journal), "local.test")
    sweep.start_attempt(job="", host="here", nodes=1)
    for curve in curves:
        trial = sweep.next_trial()
        sweep.start_trial(trial.id, "here")
        run.sweep.trial(trial.id).mkdir(parents=True)
        store = Store(run.sweep.checkpoints(trial.id), 2, mode)
        for epoch, value in enumerate(curve, 1):
            store.save(epoch, value, weights[epoch % len(weights)], {}, meta)
            sweep.report(trial.id, epoch, {metric: value}, end="test" if epoch == len(curve) else "")
    sweep.end_attempt("test")
    return run


def outcome(run, soup="best"):
    record = Record.read(run)
    return finish(run, Record(**{**vars(record), "soup": soup}))["outcome"]


def test_the_best_epoch_counts_not_the_last(run):
    """AutoMM ranks by the last value and would take trial 1."""
    found = outcome(again(run, [[0.5, 0.9, 0.6], [0.6, 0.7, 0.8]]))
    assert (found["trial"], found["best_epoch"], found["best_value"]) == ("0000", 2, 0.9)


def test_an_epoch_that_was_kept_and_not_reported_is_made_up_for(run):
    """A signal may come between the two."""
    before, last = sorted(run.sweep.checkpoints("0000").glob("last-*"))
    epochs = int(last.name.removeprefix("last-"))
    for kind in ("last", "best"):
        shutil.rmtree(last.with_name(f"{kind}-{epochs:04d}"), ignore_errors=True)
    events = run.sweep.journal.read_text().splitlines(keepends=True)
    lost = next(n for n, line in enumerate(events) if json.loads(line)["type"] == "reported"
                and json.loads(line)["epoch"] == epochs - 1)  # fmt: skip
    run.sweep.journal.write_text("".join(events[:lost]))
    subprocess.run([sys.executable, "-m", "hpo.predictor.single", str(run.root)], cwd=ROOT, check=True)
    told = [event["epoch"] for event in read_events(run.sweep.journal) if event["type"] == "reported"]
    assert told == list(range(1, epochs + 1))
    assert before.is_dir()


def test_where_lower_is_better_the_lowest_are_kept(run):
    """AutoMM keeps the highest rmse, and 0.44 is gone from its disk."""
    curve = [1.0, 0.8, 0.6, 0.5, 0.45, 0.44, 0.46]
    again(run, [curve], "min", "val_loss")
    kept = {path.name for path in run.sweep.checkpoints("0000").glob("best-*")}
    assert kept == {"best-0005", "best-0006"}
    assert outcome(run)["best_value"] == 0.44


def test_damaged_weights_are_passed_over(run):
    again(run, [[0.5, 0.9], [0.7, 0.6]])
    for path in run.sweep.checkpoints("0000").glob("best-*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert outcome(run)["trial"] == "0001"
    shutil.rmtree(run.root / "trials")
    with pytest.raises(SweepError, match="no checkpoint of any trial in .* is left and whole"):
        outcome(run)


def test_nothing_but_its_own_two_files_is_touched(run):
    again(run, [[0.5, 0.9], [0.7, 0.6]])
    (run.root / "notes").mkdir()
    (run.root / "notes" / "mine.txt").write_text("keep")

    def listing():
        return {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}

    before = listing()
    outcome(run, "greedy_soup")
    after = listing()
    assert {path.name for path in set(after) - set(before)} == {"model.safetensors", "model.json"}
    assert {path: after[path] for path in before} == before


def test_a_sweep_without_a_value_says_why(run):
    resolved = read_json(run.sweep.resolved)
    run.sweep.journal.unlink()
    sweep = Sweep(SweepConfig.from_json(resolved), Journal(run.sweep.journal), "local.test")
    with pytest.raises(SweepError, match="ended before its first epoch, .* --resume"):
        outcome(run)
    sweep.start_attempt(job="", host="here", nodes=1)
    trial = sweep.next_trial()
    sweep.start_trial(trial.id, "here")
    sweep.fail_trial(trial.id, "trial", "no room for it", final=True)
    with pytest.raises(TrialError, match="no room for it"):
        outcome(run)


@pytest.mark.parametrize("method", ["greedy_soup", "uniform_soup", "best"])
def test_averaging(run, method):
    found = outcome(run, method)
    checkpoints = ranked_checkpoints(run.sweep.trial("0000"), "max")
    if method == "greedy_soup":
        assert found["averaged"] >= found["single"]
    if method == "uniform_soup":
        assert sorted(found["epochs"]) == sorted(checkpoint.epoch for checkpoint in checkpoints)
    weights = load_file(run.weights)
    same = all(torch.equal(weights[name], tensor) for name, tensor in checkpoints[0].load_weights().items())
    assert same == (len(found["epochs"]) == 1)
    assert json.loads(run.model.read_text())["outcome"] == found


@pytest.mark.parametrize(("metric", "mode"), [("val_accuracy", "max"), ("val_loss", "min")])
def test_a_greedy_soup_is_never_worse_in_either_direction(run, metric, mode):
    """Whatever order the checkpoints come in: the first alone is the bar, and spoiled weights never come in."""
    data = Path(read_json(run.sweep.resolved)["data"])
    checkpoints = ranked_checkpoints(run.sweep.trial("0000"), "max")
    assert len(checkpoints) == 3
    weights = [checkpoint.load_weights() for checkpoint in checkpoints]
    meta = {**checkpoints[0].load_meta(), "metric": metric, "mode": mode}
    torch.manual_seed(0)
    spoiled = {n: t + torch.randn_like(t) if t.is_floating_point() else t for n, t in weights[0].items()}
    kitchen = _Kitchen(meta, weights[0], data)
    for first in range(3):
        tried = [*weights[first:], *weights[:first], spoiled]
        single = kitchen.judge(tried[0])
        soup = _greedy(kitchen, tried, meta, [0, 1, 2, 3], single)
        assert soup.value == kitchen.judge(soup.weights)
        assert soup.value >= single if mode == "max" else soup.value <= single
        assert soup.epochs[0] == 0
        assert 3 not in soup.epochs
    kitchen.close()


def test_the_average_has_statistics_of_its_own(run):
    """Batch norms of averaged weights: their statistics are those of the data, not the mean of old ones."""
    data = Path(read_json(run.sweep.resolved)["data"])
    checkpoints = ranked_checkpoints(run.sweep.trial("0000"), "max")
    weights = [checkpoint.load_weights() for checkpoint in checkpoints]
    kitchen = _Kitchen(checkpoints[0].load_meta(), weights[0], data)
    mixed = kitchen.mix(weights)
    once_more = kitchen.mix(weights)
    kitchen.close()
    names = [name for name in mixed if name.endswith("running_mean")]
    assert names
    for name in mixed:
        mean = torch.stack([w[name].double() for w in weights]).mean(0)
        alike = torch.allclose(mixed[name].double(), mean, atol=1e-6)
        if name.endswith(("running_mean", "running_var")):
            assert not alike, name
        elif mixed[name].is_floating_point():
            assert alike, name
    # Over the same images the same numbers come out again: nothing of the first time is left in the model.
    assert all(torch.equal(mixed[name], tensor) for name, tensor in once_more.items())


def test_the_model_predicts_what_the_trial_validated(run, fitted, split):
    """The best epoch's accuracy on the validation split is what its checkpoint says."""
    data = Path(read_json(run.sweep.resolved)["data"])
    best = ranked_checkpoints(run.sweep.trial("0000"), "max")[0]
    kitchen = _Kitchen(best.load_meta(), best.load_weights(), data)
    assert kitchen.judge(best.load_weights()) == pytest.approx(best.load_meta()["value"])
    kitchen.close()
    with pytest.raises(TrialError, match="these weights are not of"):
        TrainedModel(best.load_meta(), {})


def test_optimiser_states_are_kept_to_go_on_only(run):
    """Of the best epochs the weights alone; AutoMM writes a full checkpoint at each validation."""
    folder = SweepDirectory(run.root).checkpoints("0000")
    assert {path.parent.name[:4] for path in folder.glob("*/state.pt")} == {"last"}
    assert len(list(folder.glob("last-*"))) == 2
    assert len(list(folder.glob("best-*"))) == 3
