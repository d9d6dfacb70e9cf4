"""A sweep file, read and checked: YAML in, one frozen SweepConfig out, or one line that says what is wrong.

name: clothing                         # optional: the file's name
data: data/clothing                    # what launch/prepare.py made; relative to the sweep file
metric: accuracy                       # optional; see hpo.metrics
seed: 0
hyperparameters: {...}                 # keys of hpo.trialconfig, fixed or with a domain of hpo.space
hyperparameter_tune_kwargs:            # AutoMM's seven, and one more
  searcher: bayes                      # or random, or {class: ray.tune.search.optuna.OptunaSearch, ...}
  searcher_init_args: {startup_trials: 8}
  scheduler: ASHA                      # or FIFO, or {class: ray.tune.schedulers.MedianStoppingRule, ...}
  scheduler_init_args: {type: stopping, reduction_factor: 3, grace_period: 2}
  num_trials: 20
  num_to_keep: 3
  resources_per_trial: {num_cpus: 4, num_gpus: 1}
  hang_timeout: 1800                   # seconds without progress after which a trial is ended and run again
  deterministic: 8                     # so many trials at a time, in an order of their own: see hpo.search.lockstep
points_to_evaluate: [{optimization.learning_rate: 0.01}]
constraints: {parameters: 5e6}         # see hpo.measures
objectives: [latency_ms]               # to be small beside the metric, see hpo.measures
warm_start: [runs/clothing-20261124-7f3a]   # earlier sweeps, see hpo.warmstart
slurm: {partition: gpu, nodes: 2}      # defaults of the flags of launch/submit.py
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.bundled import BUNDLED, PlannedData, bundled_directory
from hpo.data.manifest import HDF5_ENDINGS, DataSummary, describe
from hpo.errors import UsageError
from hpo.layout import SweepDirectory, absolute
from hpo.measures import check_measured, parse_constraints, parse_objectives
from hpo.metrics import find_reported
from hpo.modelnames import check_model_name, check_optimizer_name
from hpo.options import without_options
from hpo.plugins import ROLES, is_plugin, pickle_name, read_pickle
from hpo.requirements import check_company, possible_values
from hpo.space import Params, Space, parse_space, space_from_json, space_to_json
from hpo.trialconfig import TrialConfig, canonical_key, is_of_tables
from hpo.tuneconfig import TUNE_KEYS, TuneConfig, check_names, check_whole, parse_tune
from hpo.warmstart import read_earlier

SLURM_KEYS = (  # words of sbatch that a job takes, see hpo.cluster.request
    *("partition", "account", "qos", "reservation", "nodes", "gpus_per_node", "gpu_type", "gpus_as", "gres"),
    *("cpus_per_task", "mem", "mem_per_gpu", "mem_per_cpu", "tmp", "time", "constraint", "exclusive", "nodelist"),
    *("exclude", "licenses", "begin", "dependency", "nice", "mail_type", "mail_user", "job_name", "comment"),
    "sbatch_arg",
)
TERM_KEYS = ("mode", "max_attempts", "max_gpu_hours", "max_replacements", "head_partition", "head_time")
_TOP = (
    "name",
    "data",
    "metric",
    "seed",
    "hyperparameters",
    "hyperparameter_tune_kwargs",
    "points_to_evaluate",
    "constraints",
    "objectives",
    "warm_start",
    "slurm",
)
_CHECKED_BY_NAME = {"model.timm_image.checkpoint_name": check_model_name, "optim.optim_type": check_optimizer_name}


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """One sweep. `source` is the YAML text as the person wrote it."""

    name: str
    data: Path
    task: str
    metric: str  # as trials report it: val_accuracy
    mode: str
    seed: int
    space: Space
    tune: TuneConfig
    points: tuple[Params, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)  # largest values, see hpo.measures
    objectives: tuple[str, ...] = ()  # measures that are to be small, beside the metric
    slurm: Mapping[str, Any] = field(default_factory=dict)
    train_samples: int = 0
    fingerprint: str = ""  # of the data: equal ones are the same images, labels and splits
    earlier: Mapping[str, Any] = field(default_factory=dict)  # what earlier sweeps taught, see hpo.warmstart
    bundled: bool = False  # the data are those that come with slurmtune, unpacked by the first job
    has_table: bool = False  # the data are rows of a table, images and further columns
    source: str = ""
    attachments: Mapping[str, bytes] = field(default_factory=dict)  # files for secrets/: pickles of hpo.plugins

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest training that the space permits."""
        return int(max(possible_values(self.space, "optim.max_epochs")))

    def to_json(self) -> dict[str, Any]:
        """resolved.json: all that a job needs, without the YAML."""
        return {
            "format": 1,
            "name": self.name,
            "data": str(self.data),
            "task": self.task,
            "metric": self.metric,
            "mode": self.mode,
            "seed": self.seed,
            "max_epochs": self.max_epochs,
            "num_trials": self.tune.num_trials,
            "constants": dict(self.space.constants),
            "space": space_to_json(self.space),
            "tune": vars(self.tune),
            "points": list(self.points),
            "constraints": dict(self.constraints),
            "objectives": list(self.objectives),
            "slurm": dict(self.slurm),
            "train_samples": self.train_samples,
            "fingerprint": self.fingerprint,
            "earlier": dict(self.earlier),
            "bundled": self.bundled,
            **({"has_table": True} if self.has_table else {}),
        }

    def trial(self, params: Mapping[str, Any]) -> TrialConfig:
        """The whole configuration of the trial with `params`. All trials share the sweep's seed: the same batches and
        augmentations, so that a difference between two trials is one of their configurations."""
        return TrialConfig.from_flat(
            without_options({**self.space.constants, **params}),
            metric=self.metric,
            mode=self.mode,
            seed=self.seed,
            num_to_keep=self.tune.num_to_keep,
            constraints=self.constraints,
            objectives=self.objectives,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SweepConfig:
        return cls(
            name=values["name"],
            data=Path(values["data"]),
            task=values["task"],
            metric=values["metric"],
            mode=values["mode"],
            seed=values["seed"],
            space=space_from_json(values["space"], values["constants"]),
            tune=TuneConfig(**values["tune"]),
            points=tuple(values["points"]),
            constraints=values.get("constraints", {}),
            objectives=tuple(values.get("objectives", ())),
            slurm=values["slurm"],
            train_samples=values["train_samples"],
            fingerprint=values.get("fingerprint", ""),
            earlier=values.get("earlier", {}),
            bundled=values["bundled"],
            has_table=values.get("has_table", False),
        )


def load_sweep(path: Path, overrides: Sequence[str] = (), runs: Path = Path("runs")) -> SweepConfig:
    """The sweep in YAML file `path`, with `key=value` overrides put in its place. `runs` holds the bundled data.

    Raises:
        UsageError: the file is missing, is not YAML, or anything in it is unknown, ill-typed or impossible.
        DataError: the data it names is missing or damaged.
    """
    document, text = read_document(path, overrides)
    try:
        return build_sweep(document, path.parent, text, runs, path.stem)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_document(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The content of YAML file `path` with `key=value` overrides put in its place, and its text as written.

    Raises:
        UsageError: the file is missing or is not YAML, or an override is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error  # an OSError names the file once more
        raise UsageError(f"sweep file {path} cannot be read ({why}); give the path of a YAML file.") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise UsageError(f"{path} must be a YAML mapping with 'data' and 'hyperparameters', got {document!r}.")
    for override in overrides:
        _override(document, override)
    return document, text


def parse_yaml(text: str, where: str) -> Any:
    """`text` read as YAML 1.2 (3e-4 is a number, no is text, 12:30:00 is text; a repeated key is an error)."""
    from ruamel.yaml import YAML  # 40 ms: only commands that read a sweep file pay for it
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(io.StringIO(text))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{where}{place} is not valid YAML: {problem}.") from None


def _override(document: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set takes key=value, got {override!r}.")
    value = parse_yaml(text, f"--set {name}")
    if name in _TOP:
        document[name] = value
    elif name in TUNE_KEYS:
        document.setdefault("hyperparameter_tune_kwargs", {})[name] = value
    else:
        key = canonical_key(name)
        keys = document.setdefault("hyperparameters", {})
        for spelling in [other for other in keys if _same_key(other, key)]:
            del keys[spelling]
        keys[key] = value


def _same_key(name: str, key: str) -> bool:
    try:
        return canonical_key(name) == key
    except UsageError:
        return False


def build_sweep(
    document: Mapping[str, Any],
    base: Path,
    text: str,
    runs: Path,
    name: str,
    attachments: Mapping[str, bytes] | None = None,
) -> SweepConfig:
    """The sweep that `document`, a sweep file's content, describes.

    Args:
        base: what a relative path in it is relative to; text: the file as written; name: where it has none.
        attachments: the pickles that it names; None: they lie beside it, in a sweep's directory.
    Raises:
        UsageError, DataError: as load_sweep.
    """
    check_names("", document, _TOP)
    space, tune = parse_search(document)
    directory, summary = _find_data(document.get("data"), base, runs)
    _check_table(space, directory, has_table=summary.columns is not None)
    metric, mode = parse_metric(document.get("metric"), summary.task)
    slurm = document.get("slurm") or {}
    check_names("slurm.", slurm, (*SLURM_KEYS, *TERM_KEYS))
    config = SweepConfig(
        name=parse_name(document.get("name", name)),
        data=directory,
        task=summary.task,
        metric=metric,
        mode=mode,
        seed=check_whole("seed", document.get("seed", 0), 0),
        space=space,
        tune=tune,
        points=tuple(space.complete(point) for point in _points(document.get("points_to_evaluate"))),
        constraints=parse_constraints(document.get("constraints")),
        objectives=parse_objectives(document.get("objectives")),
        slurm=slurm,
        train_samples=int(summary.splits.get("train", 0)),
        fingerprint=BUNDLED if isinstance(summary, PlannedData) else summary.fingerprint,
        bundled=document["data"] == BUNDLED,
        has_table=summary.columns is not None,
        source=text,
        attachments=_read_attachments(tune, base) if attachments is None else attachments,
    )
    check_measured(config.constraints, config.objectives, tune)
    return _warm_start(config, document.get("warm_start"), base)


def _warm_start(config: SweepConfig, directories: Any, base: Path) -> SweepConfig:
    """`config` with what the earlier sweeps in `directories` taught."""
    if not directories:
        return config
    if not isinstance(directories, list) or not all(isinstance(path, str) for path in directories):
        raise UsageError(f"warm_start must be a list of sweep directories, got {directories!r}.")
    paths = [absolute(base / Path(path).expanduser()) for path in directories]
    return dataclasses.replace(config, earlier=read_earlier(paths, config.to_json(), config.space))


def _read_attachments(tune: TuneConfig, base: Path) -> dict[str, bytes]:
    given = {pickle_name(role): getattr(tune, role) for role in ROLES}
    named = [name for name, value in given.items() if is_plugin(value) and "pickle" in value]
    return {name: read_pickle(SweepDirectory(base).secrets / name) for name in named}


def parse_search(document: Mapping[str, Any]) -> tuple[Space, TuneConfig]:
    """What is searched and how, of a sweep file's content: all that can be checked before there are data.

    Raises:
        UsageError: as load_sweep.
    """
    for section in ("hyperparameters", "hyperparameter_tune_kwargs", "slurm"):
        if not isinstance(document.get(section) or {}, dict):
            raise UsageError(f"{section} must be a mapping, got {document[section]!r}.")
    space = parse_space(document.get("hyperparameters") or {})
    _check_timm_names(space)
    check_company(space)
    tune = parse_tune(document.get("hyperparameter_tune_kwargs") or {})
    _check_search(space, tune)
    return space, tune


def _find_data(data: Any, base: Path, runs: Path) -> tuple[Path, DataSummary | PlannedData]:
    if not isinstance(data, str) or not data:
        raise UsageError(f"'data' must name the directory that launch/prepare.py made, or be {BUNDLED}; got {data!r}.")
    if data.startswith("bundled:") and data != BUNDLED:
        raise UsageError(f"data: {data!r} is not bundled; {BUNDLED} is.")
    directory = bundled_directory(runs) if data == BUNDLED else absolute(base / Path(data).expanduser())
    if data == BUNDLED and not directory.exists():
        return directory, PlannedData()
    if directory.suffix.lower() in HDF5_ENDINGS and directory.is_file():
        raise UsageError(
            f"data {directory} is an HDF5 file; `python launch/prepare.py {directory} --out DATA --link` makes it "
            "known as it is in a moment, without --link it makes shards of it, which are read faster: then name DATA."
        )
    summary = describe(directory)
    for split in ("train", "validation"):
        if not summary.splits.get(split):
            raise UsageError(
                f"data {directory} has no {split} split; make it again by launch/prepare.py --validation 0.1."
            )
    return directory, summary


def parse_name(name: Any) -> str:
    """A sweep's name, fit for a folder and for SLURM: letters, digits, dot, dash and underscore."""
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "._-" for c in name) or name[0] in ".-":
        raise UsageError(f"name must consist of letters, digits, '.', '-' and '_', got {name!r}.")
    return name


def parse_metric(name: Any, task: str) -> tuple[str, str]:
    """The metric as trials report it and its direction; by default the first of its task."""
    name, mode = find_reported(name, task)
    return f"val_{name}", mode


def _check_search(space: Space, tune: TuneConfig) -> None:
    if not space.dimensions and tune.num_trials > 1:
        raise UsageError(
            "nothing is searched: give at least one key of hyperparameters a domain, or set num_trials: 1."
        )
    longest = int(max(possible_values(space, "optim.max_epochs")))
    if tune.grace_period and tune.grace_period > longest:
        raise UsageError(f"grace_period {tune.grace_period} lies beyond the longest training of {longest} epochs.")


def _check_table(space: Space, data: Path, has_table: bool) -> None:
    """Refuses keys that act on a table where there is none, and those that cannot act on one."""
    if has_table:
        if any(possible_values(space, "data.mixup.turn_on")):
            raise UsageError(f"data.mixup.turn_on: the rows of a table, as {data} has, cannot be mixed; set it false.")
        return
    for name in without_options({**space.constants, **{dimension.key: None for dimension in space.dimensions}}):
        if is_of_tables(name) and not (name == "model.names" and space.constants.get(name) == ["timm_image"]):
            raise UsageError(f"{name} is for data with a table beside the images, and {data} has none; leave it out.")


def _check_timm_names(space: Space) -> None:
    for key, check in _CHECKED_BY_NAME.items():
        for name in possible_values(space, key):
            check(name)


def _points(points: Any) -> list[Mapping[str, Any]]:
    if points is None:
        return []
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise UsageError(f"points_to_evaluate must be a list of mappings, got {points!r}.")
    return points
