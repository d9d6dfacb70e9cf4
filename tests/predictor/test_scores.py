"""Scores against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hpo.errors import DataError, UsageError
from hpo.metrics import METRICS, REPORTED, default_metric, find_metric, find_reported
from hpo.predictor.scores import SCORES
from hpo.trialconfig import TrialConfig

TRUTH = np.array([0, 0, 1, 1, 2])
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
# Predicted: 0 1 1 1 0. Confusion: 0 -> 1 right, 1 as 1; 1 -> both right; 2 -> as 0.
BINARY = np.array([0, 1, 1, 0])
CHANCES = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.7, 0.3]])  # the two last are tied


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 3 / 5),
        ("balanced_accuracy", (1 / 2 + 1 + 0) / 3),
        ("f1_macro", (2 / 4 + 4 / 5 + 0) / 3),  # per class 2 right / (truth + predicted): 2/4, 4/5, 0/1
        ("f1", (2 / 4 + 4 / 5 + 0) / 3),
        ("f1_micro", 3 / 5),
        ("f1_weighted", (2 * 2 / 4 + 2 * 4 / 5) / 5),
        ("precision", (1 / 2 + 2 / 3 + 0) / 3),
        ("recall", (1 / 2 + 1 + 0) / 3),
        ("log_loss", -sum(map(math.log, (0.8, 0.3, 0.7, 0.6, 0.3))) / 5),
        # each against the rest: 0: scores .8 .3 against .2 .1 .5 -> 5 of 6; 1: .7 .6 against .1 .5 .2 -> 6 of 6;
        # 2: .3 against .1 .2 .1 .3 -> 3.5 of 4
        ("roc_auc", (5 / 6 + 1 + 3.5 / 4) / 3),
        # Gorodkin: (3*5 - (2*2+2*3)) / sqrt((25-(4+9))*(25-(4+4+1)))
        ("mcc", (15 - 10) / math.sqrt(12 * 16)),
    ],
)
def test_multiclass(name, expected):
    assert SCORES[find_metric(name, "multiclass").name](TRUTH, PROBABILITIES, 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "positive", "expected"),
    [
        ("f1", 1, 2 / 3),  # one of two positives found, no false alarm: precision 1, recall 1/2
        ("f1", 0, 4 / 5),
        ("precision", 1, 1.0),
        ("recall", 1, 1 / 2),
        ("roc_auc", 1, 3.5 / 4),  # of four pairs three are in order, one is tied
        ("roc_auc", 0, 3.5 / 4),
        ("mcc", 1, 2 / math.sqrt(1 * 2 * 2 * 3)),
        ("accuracy", 1, 3 / 4),
    ],
)
def test_binary(name, positive, expected):
    assert SCORES[find_metric(name, "binary").name](BINARY, CHANCES, positive) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rmse", math.sqrt((1 + 0 + 4) / 3)),
        ("mse", 5 / 3),
        ("mae", 1.0),
        ("r2", 1 - 5 / 8),
        ("pearsonr", 6 / math.sqrt(8 * 14 / 3)),
        ("spearmanr", 0.5 * math.sqrt(3)),  # ranks 1 2 3 against 1.5 1.5 3 after centring: 1.5 / sqrt(2 * 1.5)
    ],
)
def test_regression(name, expected):
    truth, guess = np.array([1.0, 3.0, 5.0]), np.array([2.0, 3.0, 3.0])
    if name in ("pearsonr", "spearmanr"):
        guess = {"pearsonr": np.array([1.0, 2.0, 4.0]), "spearmanr": np.array([2.0, 2.0, 7.0])}[name]
    assert SCORES[find_metric(name, "regression").name](truth, guess, 1) == pytest.approx(expected)


def test_each_direction_is_right():
    """A perfect prediction is at least as good as a wrong one, in the metric's own direction."""
    one_hot, wrong = np.eye(3)[TRUTH], np.eye(3)[(TRUTH + 1) % 3]
    numbers = TRUTH.astype(float)
    for metric in METRICS.values():
        if "regression" in metric.problems:
            good, bad = SCORES[metric.name](numbers, numbers, 1), SCORES[metric.name](numbers, -numbers, 1)
        else:
            good, bad = SCORES[metric.name](TRUTH, one_hot, 1), SCORES[metric.name](TRUTH, wrong, 1)
        assert (good > bad) == (metric.mode == "max"), metric.name


def test_other_names_and_refusals():
    assert find_metric("root_mean_squared_error", "regression").name == "rmse"
    assert find_metric("nll", "binary").name == "log_loss"
    assert [default_metric(kind).name for kind in ("binary", "multiclass", "regression")] == [
        "roc_auc",
        "accuracy",
        "rmse",
    ]
    with pytest.raises(UsageError, match="'acuracy' is not known. Did you mean 'accuracy'"):
        find_metric("acuracy", "binary")
    with pytest.raises(UsageError, match="'rmse' is not for multiclass; choose one of accuracy"):
        find_metric("rmse", "multiclass")
    with pytest.raises(DataError, match="at least two classes"):
        SCORES["roc_auc"](np.array([1, 1]), CHANCES[:2], 1)


def test_one_list_of_names():
    assert list(SCORES) == list(METRICS)
    for metric in METRICS.values():
        task = "regression" if "regression" in metric.problems else "classification"
        if metric.trial:
            assert find_reported(metric.name, task) == find_reported(f"val_{metric.trial}", task)
            assert REPORTED[task][metric.trial] == metric.mode
        else:
            assert METRICS[metric.proxy].trial
            with pytest.raises(UsageError, match=f"got '{metric.name}'. For {metric.name} search by"):
                find_reported(metric.name, task)
    assert find_reported(None, "classification") == ("accuracy", "max")
    assert find_reported("loss", "regression") == ("loss", "min")
    with pytest.raises(UsageError, match="for regression, got 'accuracy'"):
        find_reported("accuracy", "regression")


@pytest.mark.parametrize("classes", [2, 7])
def test_trials_compute_the_same(classes):
    """Two implementations, one here and one on the training's side, on random outputs."""
    import torch

    from hpo.trial.task import Classification, Regression

    rng = np.random.default_rng(classes)
    targets, outputs = rng.integers(0, classes, 60), rng.normal(0, 2, (60, classes)).astype(np.float32)
    task = Classification(SimpleNamespace(num_classes=classes, class_names=["x"] * classes), TrialConfig())
    compared = task.compare(torch.from_numpy(outputs), torch.from_numpy(targets))
    judged = task.judge(compared.numpy())
    probabilities = torch.from_numpy(outputs).double().softmax(1).numpy()
    assert set(judged) == set(task.metrics)
    for metric in METRICS.values():
        if metric.trial and "multiclass" in metric.problems:
            expected = SCORES[metric.name](targets, probabilities, 1)
            assert judged[f"val_{metric.trial}"] == pytest.approx(expected, rel=1e-5), metric.name

    numbers = rng.normal(5, 3, (60, 1)).astype(np.float32)
    task = Regression(SimpleNamespace(labels=numbers))
    guesses = task.targets(numbers + rng.normal(0, 1, (60, 1)).astype(np.float32))
    judged = task.judge(task.compare(guesses, task.targets(numbers)).numpy())
    own_units = guesses.numpy()[:, 0] * numbers.std() + numbers.mean()
    for name in ("rmse", "mae", "r2"):
        assert judged[f"val_{name}"] == pytest.approx(SCORES[name](numbers[:, 0], own_units, 1), rel=1e-4)


def test_many_classes_are_not_ranked():
    from hpo.trial.task import RANKED, Classification

    task = Classification(SimpleNamespace(num_classes=RANKED + 1, class_names=[]), TrialConfig())
    assert "val_roc_auc" not in task.metrics
    assert "val_f1_macro" in task.metrics
