"""The arguments of the predictor's methods: AutoMM's that are not supported, and the checks of those that are."""

from __future__ import annotations

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
    "column_types": "name the image column by MultiModalPredictor(image_column=...)",
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
          "hyperparameter_tune_kwargs", "cluster", "slurm", "wait", "metrics", "as_pandas")  # fmt: skip


def to_seconds(time_limit: float | timedelta | None) -> float | None:
    if isinstance(time_limit, timedelta):
        time_limit = time_limit.total_seconds()
    if time_limit is None:
        return None
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
        raise UsageError(f"time_limit must be a number of seconds above 0, got {time_limit!r}.")
    return float(time_limit)


def check_place(cluster: str, slurm: dict[str, Any] | None, wait: bool, limit: float | None) -> None:
    if cluster not in ("local", "slurm"):
        raise UsageError(f"cluster must be local or slurm, got {cluster!r}.{nearest(str(cluster), ('local', 'slurm'))}")
    if cluster == "local" and slurm:
        raise UsageError("slurm={...} goes with cluster='slurm'; add that, or leave it out.")
    if limit is not None and not wait:
        raise UsageError("time_limit needs somebody who waits: give wait=True, or for SLURM slurm={'time': ...}.")


def refuse(where: str, others: dict[str, Any]) -> None:
    """An argument that AutoMM has and we have not is refused with the reason; None, False and [] say nothing."""
    for name, value in others.items():
        if name in _REFUSED:
            if value not in (None, False):
                raise UsageError(f"{where}: AutoMM's {name}={value!r} is not supported: {_REFUSED[name]}.")
            continue
        raise UsageError(f"{where} has no argument {name!r}.{nearest(name, _KNOWN)}")
