"""AutoGluon's HPO tutorial: its blocks as they stand, but for the import. There is no network here, so the predictor is
told once to start from scratch, and at 32 pixels, so that two real CNNs train in seconds on a CPU."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hpo import MultiModalPredictor
from hpo.layout import read_json
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
HERE = {"model.timm_image.pretrained": False, "model.timm_image.image_size": 32, "env.batch_size": 16}


def test_the_hpo_block(split, here):
    from ray import tune

    train_data, test_data = split
    predictor_hpo = MultiModalPredictor(label="label", hyperparameters=HERE, verbosity=0)

    hyperparameters = {
        "optimization.learning_rate": tune.uniform(0.00005, 0.001),
        "model.timm_image.checkpoint_name": tune.choice(["ghostnet_100", "mobilenetv3_large_100"]),
        "optimization.optim_type": tune.choice(["adamw", "sgd"]),
        "optimization.max_epochs": tune.choice(["10", "20"]),
    }
    hyperparameter_tune_kwargs = {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 2, "num_to_keep": 3}
    found = predictor_hpo.fit(
        train_data=train_data,
        hyperparameters=hyperparameters,
        hyperparameter_tune_kwargs=hyperparameter_tune_kwargs,
    )
    assert found is predictor_hpo
    assert hyperparameter_tune_kwargs == {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 2, "num_to_keep": 3}

    scores_hpo = predictor_hpo.evaluate(test_data, metrics=["accuracy"])
    predictions = predictor_hpo.predict(test_data)
    probabilities = predictor_hpo.predict_proba(test_data)
    assert scores_hpo["accuracy"] == pytest.approx((predictions == test_data["label"]).mean())
    predictor_hpo.save("my_saved_dir")
    loaded_predictor = MultiModalPredictor.load("my_saved_dir")
    np.testing.assert_array_equal(loaded_predictor.predict_proba(test_data), probabilities)

    board = loaded_predictor.leaderboard()
    assert len(board) == 2
    assert board["rank"].tolist() == [1, 2]
    assert set(board["max_epochs"]) <= {10, 20}
    trials = loaded_predictor.trials()
    best = max(trials, key=lambda trial: (trial["value"], -int(trial["trial"])))
    summary = loaded_predictor.fit_summary()
    assert summary["best_trial"] == best["trial"] == board["trial"][0]
    assert summary["val_accuracy"] >= best["value"] == max(value for _, value in best["curve"])
    for key, value in best["params"].items():
        assert loaded_predictor.best_config[key] == value
    for trial in trials:  # the others are still there, with what they were told and what came of it
        folder = Path(predictor_hpo.path) / "trials" / trial["trial"]
        assert read_json(folder / "params.json")["optim.lr"] == trial["params"]["optim.lr"]
        assert len((folder / "result.json").read_text().splitlines()) == len(trial["curve"])


def test_a_search_that_is_cut_off_has_its_result(split, here):
    """AutoMM's *_hpo presets with time_limit end in FileNotFoundError (its issue 5134)."""
    predictor = MultiModalPredictor(label="label", hyperparameters={**HERE, "optim.patience": 1000}, verbosity=0)
    handle = predictor.fit(
        split[0],
        presets="medium_quality_hpo",
        hyperparameters={
            "model.timm_image.checkpoint_name": "test_resnet",
            "env.batch_size": 16,
            "optimization.max_epochs": 1000,
        },
        wait=False,
    )
    end = time.monotonic() + 120
    while sum(t.epochs for t in SweepState(read_events(handle.directory / "journal.jsonl")).trials.values()) < 4:
        assert time.monotonic() < end
        time.sleep(0.2)
    handle.cancel()
    predictor = handle.wait(timeout=60)
    board = predictor.leaderboard()
    assert "interrupted" in set(board["state"])
    assert predictor.fit_summary()["val_accuracy"] >= board["val_accuracy"][0]
    assert predictor.evaluate(split[1])["accuracy"] > 0


def test_the_example_runs_as_the_readme_says(here):
    command = [sys.executable, str(ROOT / "examples" / "automm_hpo.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "Regular: " in done.stdout
    assert "HPO: " in done.stdout
    assert "val_accuracy" in done.stdout
    assert (here / "runs").is_dir()
