"""From arguments to a fit at work: weights to start from, shards, the sweep's directory, the job."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.config import SweepConfig, build_sweep
from hpo.data.manifest import describe, read_manifest
from hpo.errors import UsageError
from hpo.layout import absolute
from hpo.predictor.datasets import materialise
from hpo.predictor.document import Request, to_yaml
from hpo.predictor.handle import FitHandle, request_of, start, submit
from hpo.predictor.labels import Labels, infer_labels
from hpo.predictor.metrics import METRICS, default_metric, find_metric
from hpo.predictor.record import PredictorFiles, Record
from hpo.predictor.samples import is_prepared, read_samples
from hpo.predictor.watch import Bar, voice
from hpo.search.plugins import rehearse
from hpo.staging import name_run, stage_sweep

_NAME = "automm"
_WEIGHTS = "model.timm_image.pretrained"
_MODEL = "model.timm_image.checkpoint_name"
_SIZE = "model.timm_image.image_size"


@dataclass(frozen=True)
class Wishes:
    """What the person told the predictor itself; None where it is to be found."""

    label: str
    problem_type: str | None
    image: str | None
    eval_metric: str | None
    validation_metric: str | None
    verbosity: int


@dataclass(frozen=True)
class Data:
    """What `fit` trains on; `holdout` None: AutoMM's share."""

    train: Any
    tuning: Any
    holdout: float | None


def begin_fit(
    wishes: Wishes, request: Request, data: Data, run: Path, seed: int, cluster: str, slurm: dict[str, Any] | None
) -> FitHandle:
    """Prepares everything and starts the fit in directory `run`.

    Raises:
        UsageError, DataError, ClusterError: anything is wrong; nothing was started.
    """
    say = voice(wishes.verbosity)
    job_request = request_of(slurm, say) if cluster == "slurm" else None
    request.hyperparameters.setdefault(_WEIGHTS, "true" if cluster == "local" else "auto")
    shards, labels = _prepare(wishes, request, data, seed)
    config, record = _settle(wishes, request, shards, labels, seed)
    for note in rehearse(config):
        say(note)
    directory = stage_sweep(config, run, cluster, asdict(job_request) if job_request else {})
    record.write(PredictorFiles(run).record)
    if job_request:
        return FitHandle(run, submit(directory, config, job_request, say), wishes.verbosity)
    return FitHandle(run, start(directory, request.searched, say), wishes.verbosity)


def choose_run(given: str | Path | None) -> Path:
    """The directory of a fit: as given, which may be there if it is empty, else a new one below runs/.

    Raises:
        UsageError: there is something in it.
    """
    if given is None:
        return name_run(_runs(), _NAME)
    run = absolute(given)
    if run.is_dir() and not any(run.iterdir()):
        run.rmdir()
    if run.exists():
        raise UsageError(f"{run} exists already; give a new save_path, or MultiModalPredictor.load it.")
    return run


def go_on_from(request: Request, files: PredictorFiles, meta: dict[str, Any]) -> None:
    """A second fit goes on from the first one's model, unless the person names another."""
    values = request.hyperparameters
    if _MODEL not in values and _WEIGHTS not in values:
        values[_MODEL], values[_WEIGHTS] = meta["model"], str(files.weights)
        values.setdefault(_SIZE, meta["input"]["size"])


def _runs() -> Path:
    return absolute(os.environ.get("SLURMTUNE_RUNS") or "runs")


def _prepare(wishes: Wishes, request: Request, data: Data, seed: int) -> tuple[Path, Labels]:
    """The directory of shards, and what the labels are."""
    if is_prepared(data.train):
        return _take_prepared(absolute(data.train), data)
    train = read_samples(data.train, wishes.label, wishes.image, "train_data")
    if train.labels is None:
        raise UsageError(f"train_data has no column {wishes.label!r}; name it by MultiModalPredictor(label=...).")
    tuning = None
    if data.tuning is not None:
        tuning = read_samples(data.tuning, wishes.label, wishes.image, "tuning_data")
    labels = infer_labels(train.labels, wishes.problem_type, request.pos_label)
    say = voice(wishes.verbosity)
    say(f"{labels.problem_type} by {len(train)} rows of {wishes.label!r}")
    return materialise(train, tuning, labels, data.holdout, seed, _runs() / "data", say, Bar(say)), labels


def _take_prepared(directory: Path, data: Data) -> tuple[Path, Labels]:
    if data.tuning is not None or data.holdout is not None:
        raise UsageError(f"{directory} has its own splits; leave out tuning_data and holdout_frac.")
    summary = describe(directory)
    if summary.columns:
        raise UsageError(
            f"{directory} has a table beside its images: take it to launch/submit.py, a predictor cannot yet."
        )
    if summary.task == "regression":
        if summary.num_classes != 1:
            raise UsageError(f"{directory} has {summary.num_classes} label columns; a predictor has one.")
        return directory, Labels("regression")
    kind = "binary" if len(summary.class_names) == 2 else "multiclass"
    return directory, Labels(kind, tuple(summary.class_names))


def _settle(wishes: Wishes, request: Request, shards: Path, labels: Labels, seed: int) -> tuple[SweepConfig, Record]:
    """The sweep with its metric, and what the predictor has to remember."""
    shown, chosen = _choose_metrics(wishes, labels.problem_type)
    document = request.document(name=_NAME, data=str(shards), metric=METRICS[chosen].trial, seed=seed)
    config = build_sweep(document, shards.parent, to_yaml(document), _runs(), _NAME, request.attachments)
    options = read_manifest(shards).source.get("options", {})
    policy = {key.strip("-").replace("-", "_"): options.get(key) for key in ("--encoding", "--size", "--max-side")}
    return config, Record(wishes.label, labels, wishes.image, shown, chosen, request.soup, {"images": policy})


def _choose_metrics(wishes: Wishes, kind: str) -> tuple[str, str]:
    """The names of the metric that evaluate shows and of the one by which epochs and trials are chosen."""
    shown = find_metric(wishes.eval_metric, kind) if wishes.eval_metric else default_metric(kind)
    chosen = find_metric(wishes.validation_metric, kind) if wishes.validation_metric else shown
    if chosen.trial:
        return shown.name, chosen.name
    if wishes.validation_metric:
        known = ", ".join(metric.name for metric in METRICS.values() if metric.trial and kind in metric.problems)
        raise UsageError(f"validation_metric {chosen.name} is not computed while trials train; choose of {known}.")
    voice(wishes.verbosity)(f"{chosen.name} is for evaluate; epochs and trials are chosen by {chosen.proxy}")
    return shown.name, chosen.proxy
