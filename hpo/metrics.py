"""The metrics by AutoMM's names: direction, what problems each is for, and how trials call it. The one list of them.

hpo.predictor.scores computes them of predictions, hpo.trial.task those that trials report after each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpo.errors import UsageError, nearest

CLASSES = ("binary", "multiclass")
PROBLEM_TYPES = (*CLASSES, "regression")
_NUMBERS = ("regression",)


@dataclass(frozen=True)
class Metric:
    """`mode`: max or min is better. `trial`: the name under which trials report it while they train, '' when they do
    not; `proxy`: the metric to search by then."""

    name: str
    mode: str
    problems: tuple[str, ...]
    trial: str = ""
    proxy: str = ""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "max", CLASSES, trial="accuracy"),
        Metric("balanced_accuracy", "max", CLASSES, trial="balanced_accuracy"),
        Metric("f1", "max", CLASSES, proxy="f1_macro"),
        Metric("f1_macro", "max", CLASSES, trial="f1_macro"),
        Metric("f1_micro", "max", CLASSES, proxy="accuracy"),
        Metric("f1_weighted", "max", CLASSES, proxy="accuracy"),
        Metric("precision", "max", CLASSES, proxy="f1_macro"),
        Metric("recall", "max", CLASSES, proxy="balanced_accuracy"),
        Metric("mcc", "max", CLASSES, proxy="f1_macro"),
        Metric("roc_auc", "max", CLASSES, trial="roc_auc"),
        Metric("log_loss", "min", CLASSES, trial="loss"),
        Metric("rmse", "min", _NUMBERS, trial="rmse"),
        Metric("mse", "min", _NUMBERS, proxy="rmse"),
        Metric("mae", "min", _NUMBERS, trial="mae"),
        Metric("r2", "max", _NUMBERS, trial="r2"),
        Metric("pearsonr", "max", _NUMBERS, proxy="r2"),
        Metric("spearmanr", "max", _NUMBERS, proxy="r2"),
    )
}
REPORTED = {  # of a sweep: what trials report -> direction, by task; the first is the default
    "classification": {metric.trial: metric.mode for metric in METRICS.values() if metric.problems == CLASSES
                       and metric.trial},
    "regression": {metric.trial: metric.mode for metric in METRICS.values() if metric.problems == _NUMBERS
                   and metric.trial} | {"loss": "min"},  # the squared error of standardised labels
}  # fmt: skip
_OTHER_NAMES = {
    "acc": "accuracy",
    "nll": "log_loss",
    "cross_entropy": "log_loss",
    "loss": "log_loss",
    "roc_auc_ovr": "roc_auc",
    "roc_auc_ovr_macro": "roc_auc",
    "root_mean_squared_error": "rmse",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
}


def problems_of(name: str) -> tuple[str, ...]:
    """The kinds of problem that the metric is for; none where it is not known."""
    metric = METRICS.get(_OTHER_NAMES.get(name.lower(), name.lower()))
    return metric.problems if metric else ()


def find_metric(name: str, problem_type: str) -> Metric:
    """The metric that people call `name`.

    Raises:
        UsageError: there is none, or it is not for this kind of problem.
    """
    known = _OTHER_NAMES.get(str(name).lower(), str(name).lower())
    metric = METRICS.get(known)
    fitting = [other.name for other in METRICS.values() if problem_type in other.problems]
    if metric is None:
        raise UsageError(f"metric {name!r} is not known.{nearest(known, METRICS)} Known: {', '.join(fitting)}.")
    if problem_type not in metric.problems:
        raise UsageError(f"metric {name!r} is not for {problem_type}; choose one of {', '.join(fitting)}.")
    return metric


def default_metric(problem_type: str) -> Metric:
    """AutoMM's: roc_auc, accuracy or rmse."""
    return METRICS[{"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}[problem_type]]


def find_reported(name: str | None, task: str) -> tuple[str, str]:
    """What trials of a sweep report under `name`, one of REPORTED or of people's names for it, and its direction.

    Raises:
        UsageError: trials do not report it, or it is not for this task.
    """
    reported = REPORTED[task]
    given = next(iter(reported)) if name is None else str(name).removeprefix("val_")
    metric = METRICS.get(_OTHER_NAMES.get(given.lower(), given.lower()))
    fits = metric is not None and (metric.problems == _NUMBERS) == (task == "regression")
    known = metric.trial if metric and fits and metric.trial else given
    if known not in reported:
        near = f" For {metric.name} search by {METRICS[metric.proxy].trial}." if metric and fits else ""
        remedy = near or nearest(given, reported)
        raise UsageError(f"metric must be one of {', '.join(reported)} for {task}, got {given!r}.{remedy}")
    return known, reported[known]
