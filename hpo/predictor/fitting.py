"""From arguments to a fit at work: weights to start from, shards, the sweep's directory, the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.check.preflight import check_before
from hpo.cluster.completion import comment_of
from hpo.cluster.sites import expand_runs
from hpo.cluster.terms import Terms
from hpo.config import SweepConfig, build_sweep
from hpo.data.manifest import describe, read_manifest
from hpo.errors import UsageError
from hpo.layout import absolute
from hpo.metrics import METRICS, default_metric, find_metric
from hpo.options import names_key
from hpo.predictor.datasets import materialise
from hpo.predictor.document import Request, to_yaml
from hpo.predictor.frames import Roles, find_roles
from hpo.predictor.handle import FitHandle, Wanted, start, submit, wanted_of
from hpo.predictor.labels import Labels, infer_labels
from hpo.predictor.record import PredictorFiles, Record
from hpo.predictor.samples import Samples, from_frame, is_prepared, read_frame, read_samples
from hpo.predictor.voice import Bar, Voice, voice
from hpo.search.plugins import rehearse
from hpo.staging import name_run, stage_sweep
from hpo.weights import check_weights, is_offline, wanted_weights

_NAME = "automm"
_WEIGHTS = "model.timm_image.pretrained"
_MODEL = "model.timm_image.checkpoint_name"
_SIZE = "model.timm_image.image_size"


@dataclass(frozen=True)
class Wishes:
    """What the person told the predictor itself; None where it is to be found."""

    label: str
    problem_type: str | None
    images: tuple[str, ...] | None
    eval_metric: str | None
    validation_metric: str | None
    verbosity: int
    progress: bool = True


@dataclass(frozen=True)
class Data:
    """What `fit` trains on; `holdout` None: AutoMM's share; `types`: what the person says of some columns."""

    train: Any
    tuning: Any
    holdout: float | None
    types: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """Where a fit is to be at work: local or slurm, and what to ask of it. `left`: gives the seconds that it may take;
    None: as many as it wants."""

    cluster: str
    slurm: dict[str, Any] | None = None
    left: Callable[[], float] | None = None


def begin_fit(
    wishes: Wishes, request: Request, data: Data, given: str | Path | None, seed: int, place: Place
) -> FitHandle:
    """Prepares everything and starts the fit in directory `given`, None: a new one below runs/.

    Raises:
        UsageError, DataError, ClusterError: anything is wrong; nothing was started.
    """
    say = voice(wishes.verbosity)
    wanted = wanted_of(place.slurm, say) if place.cluster == "slurm" else None
    runs = _runs(wanted)
    run = _choose_run(given, runs)
    if not names_key(request.hyperparameters, _WEIGHTS):
        request.hyperparameters[_WEIGHTS] = "auto" if wanted else "true"
    shards, labels, roles = _prepare(wishes, request, data, runs, seed)
    config, record = _settle(wishes, request, shards, labels, roles, seed)
    for note in rehearse(config):
        say(note)
    left = place.left() if place.left else None
    wanted = wanted.with_defaults(comment_of(config, run), left) if wanted else None
    _check(config, run, wanted, say)
    if wanted:
        config = _pack(config, wanted, say)
        job = submit(config, run, wanted, lambda directory: record.write(PredictorFiles(directory.root).record), say)
        return FitHandle(run, job, wishes.verbosity, wishes.progress)
    config = _pack(config, None, say)
    directory = stage_sweep(config, run, place.cluster, {}, Terms(time_limit=left).to_json(), None)
    record.write(PredictorFiles(run).record)
    return FitHandle(run, start(directory, request.searched, say), wishes.verbosity, wishes.progress)


def _pack(config: SweepConfig, wanted: Wanted | None, say: Callable[[str], None]) -> SweepConfig:
    """`trials_per_gpu: auto` decided, for where the fit will be at work."""
    if config.tune.trials_per_gpu != "auto":
        return config
    from hpo.cluster.submission import count_local_gpus
    from hpo.price.packing import pack

    if wanted is None:
        return pack(config, None, (len(os.sched_getaffinity(0)), count_local_gpus()), say)
    request = wanted.request
    return pack(config, request, (request.cpus_per_task or 1, request.gpus_per_node or 0), say)


def _check(config: SweepConfig, run: Path, wanted: Wanted | None, say: Voice) -> None:
    """Refuses a fit on SLURM as launch/submit.py does, looking for weights where the site's jobs will; and one here
    whose trials would find no weights."""
    models = "".join(f" --model {name}" for name in wanted_weights(config.space).models)
    remedy, before = f"python launch/prefetch.py{models}", dict(os.environ)
    os.environ.update(wanted.site.weights_environment() if wanted else {})
    try:
        may_download = not is_offline(usual=wanted is not None)
        if wanted:
            check_before(config, run, wanted.one_job, say, remedy=remedy, may_download=may_download)
        else:
            check_weights(config.space, remedy, may_download=may_download)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _choose_run(given: str | Path | None, runs: Path) -> Path:
    """The directory of a fit: as given, which may be there if it is empty, else a new one below `runs`.

    Raises:
        UsageError: there is something in it.
    """
    if given is None:
        return name_run(runs, _NAME)
    run = absolute(given)
    if run.is_dir() and not any(run.iterdir()):
        run.rmdir()
    if run.exists():
        raise UsageError(f"{run} exists already; give a new save_path, or MultiModalPredictor.load it.")
    return run


def _runs(wanted: Wanted | None) -> Path:
    """Where fits and shards of tables go, as launch/submit.py has it."""
    site = expand_runs(wanted.site) if wanted else None
    return absolute(os.environ.get("SLURMTUNE_RUNS") or site or "runs")


def go_on_from(request: Request, files: PredictorFiles, meta: dict[str, Any]) -> None:
    """A second fit goes on from the first one's model, unless the person names another."""
    values = request.hyperparameters
    if not (names_key(values, _MODEL) or names_key(values, _WEIGHTS)):
        values[_MODEL], values[_WEIGHTS] = meta["model"], str(files.weights)
        if not names_key(values, _SIZE):
            values[_SIZE] = meta["input"]["size"]


def _prepare(wishes: Wishes, request: Request, data: Data, runs: Path, seed: int) -> tuple[Path, Labels, Roles]:
    """The directory of shards, what the labels are, and what the table's columns are for."""
    if is_prepared(data.train):
        return *_take_prepared(absolute(data.train), data), Roles(wishes.label, wishes.images)
    say = voice(wishes.verbosity)
    train, roles = _read_training(wishes, data, say)
    if train.labels is None:
        raise _no_label(wishes.label)
    tuning = None if data.tuning is None else read_samples(data.tuning, roles, "tuning_data")
    labels = infer_labels(train.labels, wishes.problem_type, request.pos_label)
    said = "" if wishes.problem_type else "; problem_type says otherwise"
    say(f"{labels.problem_type} by {len(train)} rows of {wishes.label!r}{said}")
    shards = materialise(
        train, tuning, labels, data.holdout, seed, runs / "data", say, Bar(say if wishes.progress else voice(0))
    )
    return shards, labels, roles


def _read_training(wishes: Wishes, data: Data, say: Voice) -> tuple[Samples, Roles]:
    """The rows to train on, and what their columns are for, which is said."""
    roles = Roles(wishes.label, wishes.images)
    found = read_frame(data.train, roles, "train_data")
    if found is None:
        if data.types or len(wishes.images or ()) > 1:
            raise UsageError(f"column_types and several image columns are for a table; {data.train} holds images.")
        return read_samples(data.train, roles, "train_data"), roles
    frame, what, base = found
    if wishes.label not in frame.columns:
        raise _no_label(wishes.label)
    roles, notes = find_roles(frame, wishes.label, wishes.images, data.types, what)
    for note in notes:
        say(note)
    if roles.has_table:
        beside = ", ".join(f"{name!r} {kind}" for name, kind in roles.kinds.items()) or "nothing"
        say(f"images {', '.join(map(repr, roles.images or ()))}, beside them {beside}; column_types says otherwise")
    return from_frame(frame, what, base, roles), roles


def _no_label(label: str) -> UsageError:
    return UsageError(f"train_data has no column {label!r}; name it by MultiModalPredictor(label=...).")


def _take_prepared(directory: Path, data: Data) -> tuple[Path, Labels]:
    if data.tuning is not None or data.holdout is not None or data.types:
        raise UsageError(
            f"{directory} has its own splits and columns; leave out tuning_data, holdout_frac and column_types."
        )
    summary = describe(directory)
    if summary.task == "regression":
        if summary.num_classes != 1:
            raise UsageError(f"{directory} has {summary.num_classes} label columns; a predictor has one.")
        return directory, Labels("regression")
    kind = "binary" if len(summary.class_names) == 2 else "multiclass"
    return directory, Labels(kind, tuple(summary.class_names))


def _settle(
    wishes: Wishes, request: Request, shards: Path, labels: Labels, roles: Roles, seed: int
) -> tuple[SweepConfig, Record]:
    """The sweep with its metric, and what the predictor has to remember."""
    shown, chosen = _choose_metrics(wishes, labels.problem_type)
    document = request.document(name=_NAME, data=str(shards), metric=METRICS[chosen].trial, seed=seed)
    config = build_sweep(document, shards.parent, to_yaml(document), shards.parent, _NAME, request.attachments)
    options = read_manifest(shards).source.get("options", {})
    policy = {key.strip("-").replace("-", "_"): options.get(key) for key in ("--encoding", "--size", "--max-side")}
    image = wishes.images[0] if wishes.images and len(wishes.images) == 1 else None
    settings = {"images": policy, "image_column": (roles.images or ("",))[0]}
    return config, Record(wishes.label, labels, image, shown, chosen, request.soup, settings)


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
