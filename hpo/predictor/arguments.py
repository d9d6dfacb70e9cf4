"""The arguments of the predictor's methods: AutoMM's that are not supported, and the checks of those that are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hpo.errors import UsageError, nearest

_MATCHING = "matching is not available, only classes and numbers are"
_ENSEMBLES = "ensembles are not available"
_REFUSED = {  # AutoMM's arguments -> why not
    **dict.fromkeys(("query", "response", "match_label", "id_mappings", "candidate_data"), _MATCHING),
    **dict.fromkeys(
        ("use_ensemble", "ensemble_size", "ensemble_mode", "predictions", "labels", "predictors"), _ENSEMBLES
    ),
    **dict.fromkeys(("num_classes", "classes"), "classes are found from the label"),
    "teacher_predictor": "distillation is not available",
    "sample_data_path": "it belongs to object detection, which is not available",
    "max_num_tuning_data": "pass fewer rows as tuning_data",
    "clean_ckpts": "only superseded checkpoints are removed",
    "standalone": "a saved predictor always stands alone",
    "pretrained": "use hyperparameters={'model.timm_image.pretrained': False}",
    "resume": "launch/submit.py --resume goes on with a fit",
    "realtime": "there is one way to predict",
    "warn_if_exist": "a path that exists is always refused",
    "enable_progress_bar": "use verbosity=0",
    "id_column": "ids are not used",
}
_KNOWN = ("label", "problem_type", "presets", "eval_metric", "validation_metric", "hyperparameters", "path",
          "verbosity", "image_column", "tuning_data", "time_limit", "save_path", "holdout_frac", "seed",
          "hyperparameter_tune_kwargs", "column_types", "cluster", "slurm", "wait", "metrics", "as_pandas")  # fmt: skip


def to_seconds(time_limit: float | timedelta | None) -> float | None:
    if isinstance(time_limit, timedelta):
        time_limit = time_limit.total_seconds()
    if time_limit is None:
        return None
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
        raise UsageError(f"time_limit must be a number of seconds above 0, got {time_limit!r}.")
    return float(time_limit)


def check_place(cluster: str, slurm: dict[str, Any] | None) -> None:
    if cluster not in ("local", "slurm"):
        raise UsageError(f"cluster must be local or slurm, got {cluster!r}.{nearest(str(cluster), ('local', 'slurm'))}")
    if cluster == "local" and slurm:
        raise UsageError("slurm={...} goes with cluster='slurm'; add that, or leave it out.")


def refuse(where: str, others: dict[str, Any]) -> None:
    """An argument that AutoMM has and we have not is refused with the reason; None, False and [] say nothing."""
    for name, value in others.items():
        if name in _REFUSED:
            if value not in (None, False):
                raise UsageError(f"{where}: AutoMM's {name}={value!r} is not supported: {_REFUSED[name]}.")
            continue
        raise UsageError(f"{where} has no argument {name!r}.{nearest(name, _KNOWN)}")


def to_columns(image_column: Any) -> tuple[str, ...] | None:
    """One name or several; None: to be found."""
    if image_column is None:
        return None
    names = (image_column,) if isinstance(image_column, str) else image_column
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"image_column must be a column's name or a list of such, got {image_column!r}.")
    return tuple(names)


def to_types(column_types: Any) -> dict[str, str]:
    """AutoMM's column_types: {column: type}."""
    if column_types is None:
        return {}
    if not isinstance(column_types, Mapping) or not all(isinstance(name, str) for name in column_types):
        raise UsageError(f"column_types must be a dict of columns and types, got {column_types!r}.")
    return {name: str(kind) for name, kind in column_types.items()}
