"""The sweep as an Optuna study in a file that optuna-dashboard and JournalStorage open: derived, never read back.

Written whole from the journal at the end of each attempt. Optuna's own writer appends with a lock per line, which a
killed job leaves behind; here the same lines are collected in memory and put in place by one rename.
"""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.layout import write_text
from hpo.records import Event, SweepState, Trial
from hpo.space import Choice, Dimension, Space

_STATES = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,
    "running": TrialState.RUNNING,
}  # the others wait


class _Memory(BaseJournalBackend):
    """Optuna's journal before it is a file."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs.extend(json.loads(json.dumps(logs)))


def write_study(path: Path, name: str, space: Space, events: Iterable[Event]) -> None:
    """Writes the study `name` to `path`. Opens with optuna.storages.JournalStorage(JournalFileBackend(path)).

    Stopped trials are PRUNED with the values of their epochs, as Optuna knows them; diverged ones count as failed. A
    trial's user attributes say what Optuna has no place for.
    """
    state = SweepState()
    times: dict[str, float] = {}
    for event in events:
        state.apply(event)
        if "trial" in event:
            times.setdefault(event["trial"], event["t"])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    memory = _Memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(memory)
        direction = StudyDirection.MAXIMIZE if state.maximise else StudyDirection.MINIMIZE
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        study.set_metric_names([state.metric])
        for trial in state.trials.values():
            study.add_trial(frozen_trial(space, trial, state.metric, times[trial.id]))
    write_text(path, "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in memory.logs))


def frozen_trial(space: Space, trial: Trial, metric: str, suggested_at: float) -> FrozenTrial:
    """`trial` as Optuna holds one."""
    state = _STATES.get(trial.state, TrialState.WAITING)
    if state == TrialState.COMPLETE and not trial.best:
        state = TrialState.FAIL
    params, distributions = _params(space, trial)
    values = {epoch: found[metric] for epoch, found in trial.last.items() if found.get(metric) is not None}
    attributes = {"trial": trial.id, "origin": trial.origin, "reason": trial.reason, "node": trial.node}
    attributes |= {name: value for name, value in _best_metrics(trial).items() if name != metric}
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=trial.best[1] if state == TrialState.COMPLETE and trial.best else None,
        values=None,
        datetime_start=_moment(trial.started_at or suggested_at) if state != TrialState.WAITING else None,
        datetime_complete=_moment(trial.ended_at or suggested_at) if state.is_finished() else None,
        params=params,
        distributions=distributions,
        user_attrs={name: value for name, value in attributes.items() if value not in ("", None)},
        system_attrs={},
        intermediate_values={epoch: float(value) for epoch, value in values.items() if value is not None},
    )


def _params(space: Space, trial: Trial) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Values and domains by key; a value outside its domain (a point that a person gave) is left out."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for dimension in space.active(trial.params):
        value, domain = shown_value(dimension, trial.params[dimension.key]), domain_of(dimension)
        if domain._contains(domain.to_internal_repr(value)):
            params[dimension.name], distributions[dimension.name] = value, domain
    return params, distributions


def domain_of(dimension: Dimension) -> BaseDistribution:
    """A domain as Optuna has it, choices by what they are."""
    if isinstance(dimension.domain, Choice):
        return CategoricalDistribution([shown_value(dimension, option) for option in dimension.domain.options])
    domain = dimension.domain
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def shown_value(dimension: Dimension, value: Any) -> Any:
    """`value` as Optuna can hold it: its choices are plain values, so a list becomes text."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain or not isinstance(dimension.domain, Choice) else json.dumps(value)


def _best_metrics(trial: Trial) -> dict[str, Any]:
    return dict(trial.last.get(trial.best[0] if trial.best else trial.epochs, {}))


def _moment(seconds: float) -> datetime.datetime:
    """Optuna's times have no zone: this machine's."""
    return datetime.datetime.fromtimestamp(seconds)
