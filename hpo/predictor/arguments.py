"""The arguments of the predictor's methods: AutoMM's that are not supported, and the checks of those that are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hpo.errors import UsageError, nearest
from hpo.metrics import CLASSES, PROBLEM_TYPES, find_metric, problems_of
from hpo.predictor.presets import preset

_MATCHING = "matching is not available, only classes and numbers are"
_ENSEMBLES = "ensembles are not available"
_REFUSED: dict[str, tuple[Any, str]] = {  # AutoMM's arguments -> its default, which changes nothing, why not others
    **dict.fromkeys(("query", "response", "match_label", "id_mappings", "candidate_data"), (None, _MATCHING)),
    **dict.fromkeys(("query_data", "response_data", "cutoffs"), (None, _MATCHING)),
    "chunk_size": (1024, _MATCHING),
    "similarity_type": ("cosine", _MATCHING),
    "use_ensemble": (False, _ENSEMBLES),
    "ensemble_size": (2, _ENSEMBLES),
    "ensemble_mode": ("one_shot", _ENSEMBLES),
    **dict.fromkeys(("predictions", "labels", "predictors"), (None, _ENSEMBLES)),
    **dict.fromkeys(("num_classes", "classes"), (None, "classes are found from the label")),
    "teacher_predictor": (None, "distillation is not available"),
    **dict.fromkeys(("sample_data_path", "eval_tool", "save_results"), (None, "it is object detection's")),
    "max_num_tuning_data": (None, "pass fewer rows as tuning_data"),
    "clean_ckpts": (
        False,
        "checkpoints stay, to go on from them; launch/clean.py removes them",
    ),
    "standalone": (True, "a saved predictor always stands alone"),
    "resume": (False, "launch/submit.py --resume goes on with a fit"),
    "realtime": (False, "there is one way to predict"),
    "warn_if_exist": (True, "a path that exists is always refused"),
    "id_column": (None, "ids are not used"),
    "config": (None, "hyperparameters name all keys"),
    "pipeline": (None, "problem_type says what it is"),
}
_TASKS = "it is not available: only binary, multiclass and regression are"
_KNOWN = ("label", "problem_type", "presets", "eval_metric", "validation_metric", "hyperparameters", "path",
          "verbosity", "image_column", "tuning_data", "time_limit", "save_path", "holdout_frac", "seed",
          "hyperparameter_tune_kwargs", "column_types", "cluster", "slurm", "wait", "metrics", "as_pandas",
          "pretrained", "enable_progress_bar")  # fmt: skip
ABSENT = {  # AutoMM's methods and properties -> what does it here
    "extract_embedding": "timm's forward_features of the model that launch/export.py writes gives them",
    "export_onnx": "launch/export.py DIR --out MODEL --also onnx writes it",
    "export_tensorrt": "launch/export.py DIR --out MODEL --also onnx writes what TensorRT reads",
    "optimize_for_inference": "launch/export.py DIR --out MODEL --also torch-export writes a compiled form",
    "dump_model": "launch/export.py DIR --out MODEL writes a folder that timm opens",
    "list_supported_models": "timm.list_models() has them",
    "set_num_gpus": "hyperparameters={'env.num_gpus': N} does it",
    "get_num_gpus": "hyperparameters={'env.num_gpus': N} sets it",
    **dict.fromkeys(
        ("total_parameters", "trainable_parameters", "model_size"),
        "the model that launch/export.py writes tells",
    ),
    **dict.fromkeys(("query", "response", "match_label"), _MATCHING),
}


def check_wishes(label: Any, problem_type: Any, metrics: tuple[Any, ...], presets: Any, verbosity: Any) -> None:
    """Refuses what the constructor was told before there are data.

    Raises:
        UsageError: an unknown problem, metric or preset, or a label that is no name.
    """
    if label is not None and not isinstance(label, str):
        raise UsageError(f"label must be the name of a column, got {label!r}.")
    if problem_type is not None and str(problem_type).lower() not in ("classification", *PROBLEM_TYPES):
        near = nearest(str(problem_type), PROBLEM_TYPES)
        raise UsageError(f"problem_type {problem_type!r}: {_TASKS}.{near}")
    if isinstance(verbosity, bool) or not isinstance(verbosity, int):
        raise UsageError(f"verbosity must be a whole number, 0 to say nothing, got {verbosity!r}.")
    preset(presets)
    kind = None if problem_type is None else str(problem_type).lower()
    kinds = PROBLEM_TYPES if kind is None else CLASSES if kind == "classification" else (kind,)
    for name in (str(metric) for metric in metrics if metric is not None):
        find_metric(name, next((k for k in kinds if k in problems_of(name)), kinds[0]))


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
    """An argument that AutoMM has and we have not is refused with the reason; its default and None say nothing."""
    for name, value in others.items():
        if name not in _REFUSED:
            raise UsageError(f"{where} has no argument {name!r}.{nearest(name, _KNOWN)}")
        default, reason = _REFUSED[name]
        if value is not None and not (isinstance(value, type(default)) and value == default):
            raise UsageError(f"{where}: AutoMM's {name}={value!r} is not supported: {reason}.")


def name_of(metric: Any) -> Any:
    """A metric by its name, also where it is given as an object of AutoGluon's that has one."""
    return metric if metric is None or isinstance(metric, str) else getattr(metric, "name", metric)


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
