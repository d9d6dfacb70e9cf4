"""The arguments of `fit` as the content of a sweep file, so that both take the same way from here on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.automm import changes_nothing, find_key, spelt
from hpo.config import parse_search, parse_yaml
from hpo.domains import is_domain, searches, to_plain
from hpo.errors import UsageError, nearest
from hpo.options import is_choice_of_sections, names_key
from hpo.plugins import ROLES, pickle_name
from hpo.predictor.presets import preset
from hpo.trialconfig import canonical_key
from hpo.trialkeys import SECTIONS

SOUPS = ("greedy_soup", "uniform_soup", "best")
_BY_NAME: dict[str, dict[str, Any]] = {  # AutoGluon's short forms of hyperparameter_tune_kwargs
    "auto": {"searcher": "bayes", "scheduler": "ASHA"},
    "random": {"searcher": "random", "scheduler": "FIFO"},
    "bayes": {"searcher": "bayes", "scheduler": "FIFO"},
}
_TRIALS_IN_TIME = 1000  # AutoMM's number where only the time is limited


@dataclass(frozen=True)
class Request:
    """What is to be fitted: `hyperparameters` and `tune` in the form of a sweep file; one trial if not `searched`."""

    hyperparameters: dict[str, Any]
    tune: dict[str, Any]
    searched: bool
    points: list[dict[str, Any]] = field(default_factory=list)
    soup: str = SOUPS[0]
    pos_label: Any = None
    attachments: Mapping[str, bytes] = field(default_factory=dict)  # pickles of searcher and scheduler

    def document(self, **others: Any) -> dict[str, Any]:
        """The content of a sweep file; `others` are its further keys."""
        content = {**others, "hyperparameters": self.hyperparameters, "hyperparameter_tune_kwargs": self.tune}
        return content | ({"points_to_evaluate": self.points} if self.points else {})


def read_request(
    hyperparameters: Any,
    tune_kwargs: Any,
    presets: str | None = None,
    time_limit: float | None = None,
    base: Any = None,
) -> Request:
    """Checks the arguments, which stay as they are, and brings them into one form. `base`: hyperparameters that hold
    where the others say nothing.

    Raises:
        UsageError: anything in them is unknown, ill-typed, impossible or not supported.
    """
    values, search = preset(presets)
    own: dict[str, Any] = {"optim.top_k_average_method": SOUPS[0], "data.pos_label": None}
    given = (_flat(_as_mapping(part)).items() for part in (base, hyperparameters))
    for name, value in (pair for pairs in given for pair in pairs):
        if spelt(name) in ("env.num_gpus", "optim.top_k", *own):
            own[spelt(name)] = _fixed(name, value)
        elif is_domain(value) and not find_key(name) and _is_section(spelt(name)):
            _put_sections(values, spelt(name), to_plain(name, value))
        elif not changes_nothing(name, _fixed(name, value) if find_key(name) else value):
            values[canonical_key(name)] = to_plain(name, value)
    if own["optim.top_k_average_method"] not in SOUPS:
        soup = own["optim.top_k_average_method"]
        raise UsageError(f"optim.top_k_average_method must be one of {', '.join(SOUPS)}, got {soup!r}.")
    tune, points = _read_tune(tune_kwargs, search, time_limit)
    attachments = _replace_instances(tune) if tune else {}
    _require_search(values, tune)
    searched = tune is not None
    tune = {"num_trials": 1} if tune is None else tune
    _apply_gpus(own.get("env.num_gpus"), values, tune)
    if own.get("optim.top_k") is not None:
        tune.setdefault("num_to_keep", own["optim.top_k"])
    soup, positive = own["optim.top_k_average_method"], own["data.pos_label"]
    request = Request(values, tune, searched, points, soup, positive, attachments)
    parse_search(request.document())
    return request


def base_of(hyperparameters: Any, pretrained: bool) -> Any:
    """The constructor's hyperparameters, with what `pretrained` says where they say nothing of it.

    Raises:
        UsageError: they are of no form that is known.
    """
    values = _as_mapping(hyperparameters)
    if pretrained or any(name.endswith("pretrained") for name in _flat(values)):
        return values
    return {**values, "model.timm_image.pretrained": False}


def to_yaml(document: Mapping[str, Any]) -> str:
    """`document` as a sweep file that launch/submit.py takes."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(dict(document), stream)
    return stream.getvalue()


def _as_mapping(hyperparameters: Any) -> Mapping[str, Any]:
    """AutoMM's other forms too: 'optim.lr=0.01 env.batch_size=64' and a list of such texts."""
    if hyperparameters is None:
        return {}
    if isinstance(hyperparameters, Mapping):
        return hyperparameters
    words = hyperparameters.split() if isinstance(hyperparameters, str) else hyperparameters
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and "=" in word for word in words):
        raise UsageError(f"hyperparameters must be a dict of keys and values, got {hyperparameters!r}.")
    pairs = (word.partition("=") for word in words)
    return {name: parse_yaml(text, f"hyperparameters {name}") for name, _, text in pairs}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; a mapping that is a domain stays."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        inside = isinstance(value, Mapping) and _is_section(spelt(path))
        for key, item in (_flat(value, f"{path}.") if inside else {path: value}).items():
            if key in flat:
                raise UsageError(f"hyperparameters: {key} is given twice; keep one.")
            flat[key] = item
    _require_once(flat)
    return flat


def _put_sections(values: dict[str, Any], path: str, choice: dict[str, Any]) -> None:
    """A choice among dicts of section `path`, over what presets say of the same keys."""
    if not is_choice_of_sections(choice):
        raise UsageError(f"{path} is a section; give a choice of dicts of its keys, or its keys one by one.")
    for key in [key for key in values if key.startswith(f"{path}.") and names_key({path: choice}, key)]:
        del values[key]
    values[path] = choice


def _is_section(path: str) -> bool:
    return find_key(f"{path}.x") is not None or any(
        f"{section}.".startswith(f"{path}.")
        for section in (*SECTIONS, "data", "data.mixup", "data.image", "data.label")
    )


def _require_once(flat: Mapping[str, Any]) -> None:
    seen: dict[str, str] = {}
    for name in flat:
        try:
            key = canonical_key(name)
        except UsageError:
            key = spelt(name)
        if key in seen:
            raise UsageError(f"{key} is given twice ({seen[key]} and {name}); keep one.")
        seen[key] = name


def _fixed(name: str, value: Any) -> Any:
    if searches(value):
        raise UsageError(f"{name} cannot be searched; give it one value.")
    return to_plain(name, value)


def _read_tune(
    given: Any, searched: dict[str, Any] | None, time_limit: float | None
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    if isinstance(given, str):
        if given not in _BY_NAME:
            raise UsageError(
                f"hyperparameter_tune_kwargs must be a dict or one of {', '.join(_BY_NAME)}, got {given!r}."
                f"{nearest(given, _BY_NAME)}"
            )
        given = _BY_NAME[given]
    if given is None and searched is None:
        return None, []
    if not isinstance(given or {}, Mapping):
        raise UsageError(f"hyperparameter_tune_kwargs must be a dict, got {given!r}.")
    tune = {**(searched or {}), **(given or {})}
    searcher_arguments = tune.get("searcher_init_args") or {}
    points: list[dict[str, Any]] = []
    if isinstance(searcher_arguments, Mapping) and "points_to_evaluate" in searcher_arguments:
        rest = dict(searcher_arguments)
        points = to_plain("points_to_evaluate", rest.pop("points_to_evaluate"))
        tune["searcher_init_args"] = rest
    if time_limit is not None:
        tune.setdefault("num_trials", _TRIALS_IN_TIME)
    return tune, points


def _replace_instances(tune: dict[str, Any]) -> dict[str, bytes]:
    """Objects of Ray Tune's as a sweep file names them; returns their pickles by file name."""
    attachments = {}
    for role in ROLES:
        value = tune.get(role)
        if value is None or isinstance(value, (str, list, tuple, dict, int, float)):
            continue
        name = type(value).__name__
        if tune.get(f"{role}_init_args"):
            raise UsageError(f"{role}_init_args goes with a {role} by name; give them to {name} itself.")
        if isinstance(value, type):
            raise UsageError(f"{role} is the class {value.__name__}; give an instance, {value.__name__}(...).")
        if role == "scheduler" and name == "FIFOScheduler":
            tune[role] = "FIFO"
            continue
        from hpo.search.ray_plugins import dump  # imports Ray, which whoever has such an instance did before

        tune[role], attachments[pickle_name(role)] = dump(role, value)
    return attachments


def _require_search(values: Mapping[str, Any], tune: Mapping[str, Any] | None) -> None:
    domains = [name for name, value in values.items() if searches(value)]
    if domains and tune is None:
        raise UsageError(
            f"{domains[0]} is a search space, but hyperparameter_tune_kwargs is not given; add it, or give one value."
        )
    if tune is not None and not domains:
        raise UsageError("nothing is searched: give at least one of hyperparameters a space, such as Real(1e-4, 1e-2).")


def _apply_gpus(count: Any, values: dict[str, Any], tune: dict[str, Any]) -> None:
    """AutoMM's env.num_gpus: -1 whatever there is, 0 the CPU, else so many GPUs a trial."""
    if count in (None, -1):
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UsageError(f"env.num_gpus must be -1 (what there is) or a number of GPUs a trial, got {count!r}.")
    tune["resources_per_trial"] = {"num_gpus": count, **(tune.get("resources_per_trial") or {})}
    if count == 0:
        values.setdefault("env.accelerator", "cpu")
