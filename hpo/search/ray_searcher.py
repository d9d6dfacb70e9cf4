"""A searcher of Ray Tune at work in a sweep: OptunaSearch, HyperOptSearch, a person's own.

It is asked for trials and told of results by its own methods, as Tune would, and again from the journal when a sweep
goes on. Trial 0 and the person's points are ours. A searcher that suggests something else on the second telling (one
without a seed) is told that this failed, and of the trial that really ran by `add_evaluated_point`, where it has that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from hpo.config import SweepConfig
from hpo.errors import ClusterError, UsageError
from hpo.records import Event, Trial
from hpo.search.guided import Exhausted
from hpo.search.ray_results import result_of
from hpo.space import Choice, Dimension, Params, Space

_OURS = ("default", "user", "earlier")  # origins of trials that no searcher suggested
_TRAINABLE = "slurmtune"  # BasicVariantGenerator wants one; it is never run


class RaySearcher:
    """`searcher` with the space of the sweep. `name`: of its class.

    Raises:
        UsageError: it has a space or a metric of its own.
        ClusterError: from any method, when the searcher itself fails.
    """

    def __init__(self, searcher: Any, config: SweepConfig) -> None:
        self.name = type(searcher).__name__
        self._space, self._metric, self._mode = config.space, config.metric, config.mode
        domains = ray_space(config.space)
        if isinstance(searcher, BasicVariantGenerator):
            searcher = _Variants(searcher, domains, config.tune.num_trials)
        self._searcher = searcher
        with _telling(self.name, "set_search_properties"):
            _require_metric(self.name, searcher.metric, config.metric)
            fits = searcher.set_search_properties(config.metric, config.mode, domains)
        if not fits:
            raise UsageError(
                f"searcher {self.name} has a space of its own, or takes none; give the space by hyperparameters alone."
            )
        for known in config.earlier.get("observations", []):
            if known["values"] and known["values"][-1] is not None:
                self._tell(known["params"], known["values"][-1])
        self._asked: set[str] = set()
        self._foreign: set[str] = set()  # trials that are not the searcher's own

    def suggest(self, trial_id: str) -> Params | None:
        """The next configuration; None: not now.

        Raises:
            Exhausted: there is none any more.
        """
        with _telling(self.name, "suggest"):
            found = self._searcher.suggest(trial_id)
        if found is None:
            return None
        if isinstance(found, str) and found == Searcher.FINISHED:
            raise Exhausted
        self._asked.add(trial_id)
        flat = {name.replace("/", "."): value for name, value in found.items()}
        with _telling(self.name, "suggest"):
            return self._space.build(lambda dimension: _decode(dimension, flat[dimension.name]))

    def follow(self, event: Event, trial: Trial | None) -> None:
        """Takes one event of the journal, new or told again."""
        if trial is None:
            return
        if event["type"] == "suggested":
            self._note_suggestion(trial)
        elif event["type"] == "reported" and trial.id not in self._foreign:
            if trial.first[event["epoch"]] is event["metrics"] and event["metrics"].get(self._metric) is not None:
                with _telling(self.name, "on_trial_result"):
                    self._searcher.on_trial_result(trial.id, result_of(trial, event["epoch"]))
        elif event["type"] == "finished":
            self._complete(trial)

    def _note_suggestion(self, trial: Trial) -> None:
        if trial.origin in _OURS:
            self._foreign.add(trial.id)
        elif trial.id not in self._asked:  # told again: is it what it says this time?
            again = None
            with contextlib.suppress(Exhausted):
                again = self.suggest(trial.id)
            if again != trial.params:
                self._foreign.add(trial.id)
                if again is not None:
                    with _telling(self.name, "on_trial_complete"):
                        self._searcher.on_trial_complete(trial.id, result=None, error=True)

    def _complete(self, trial: Trial) -> None:
        value = trial.first[max(trial.first)].get(self._metric) if trial.first else None
        failed = value is None or trial.state in ("failed", "diverged")
        if trial.id not in self._foreign:
            result = None if failed else result_of(trial, max(trial.first), done=True)
            with _telling(self.name, "on_trial_complete"):
                self._searcher.on_trial_complete(trial.id, result=result, error=failed)
        elif not failed:
            self._tell(trial.params, value)

    def _tell(self, params: Params, value: float | None) -> None:
        """The value of a configuration that the searcher did not suggest, if it takes such."""
        point = {d.name: _encode(d, params.get(d.key, d.default)) for d in self._space.dimensions}
        point |= {d.name: _encode(d, params[d.key]) for d in self._space.active(params)}
        with _telling(self.name, "add_evaluated_point"), contextlib.suppress(NotImplementedError):
            self._searcher.add_evaluated_point(point, value)


class _Variants:
    """Ray's BasicVariantGenerator, which makes whole Trials, with the methods of a Searcher."""

    metric = None

    def __init__(self, generator: BasicVariantGenerator, domains: Mapping[str, Any], count: int) -> None:
        self._generator, self._ids = generator, dict[str, str]()
        tune.register_trainable(_TRAINABLE, tune.Trainable)
        experiment = object.__new__(_Plan)
        experiment.spec = {"run": _TRAINABLE, "config": dict(domains), "num_samples": count}
        generator.add_configurations(experiment)

    def set_search_properties(self, metric: str, mode: str, config: Mapping[str, Any]) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        made = self._generator.next_trial()
        if made is None:
            return Searcher.FINISHED if self._generator.is_finished() else None
        self._ids[trial_id] = made.trial_id
        return dict(made.config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._generator.on_trial_complete(self._ids[trial_id], result, error)

    def add_evaluated_point(self, parameters: dict[str, Any], value: float) -> None:
        raise NotImplementedError


class _Plan(Experiment):
    """An experiment by its spec alone: without a folder, which a whole one makes."""


def ray_space(space: Space) -> dict[str, Any]:
    """The dimensions as Ray Tune's domains, by name. Conditional ones are always there: Ray's searchers know no
    conditions, and what a configuration does not need of theirs is left out.

    Raises:
        UsageError: a domain that Ray Tune has not.
    """
    return {dimension.name: _domain(dimension) for dimension in space.dimensions}


def _domain(dimension: Dimension) -> Any:
    domain = dimension.domain
    if isinstance(domain, Choice):
        return tune.choice(list(domain.options) if _is_plain(domain) else list(range(len(domain.options))))
    if domain.integer:
        ends = int(domain.low), int(domain.high) + 1  # Ray leaves the upper end out
        return tune.lograndint(*ends) if domain.log else tune.randint(*ends)
    if domain.step is not None:
        return tune.quniform(domain.low, domain.high, domain.step)
    return tune.loguniform(domain.low, domain.high) if domain.log else tune.uniform(domain.low, domain.high)


def _is_plain(domain: Choice) -> bool:
    """Lists go by their place: HyperOpt makes tuples of them, Optuna does not take them."""
    return all(option is None or isinstance(option, (bool, int, float, str)) for option in domain.options)


def _decode(dimension: Dimension, value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(dimension.domain, Choice):
        options = dimension.domain.options
        return options[options.index(value)] if _is_plain(dimension.domain) else options[int(value)]
    return dimension.domain.clip(value)


def _encode(dimension: Dimension, value: Any) -> Any:
    if not dimension.domain.contains(value):  # of another domain of the same key
        value = dimension.default
    if isinstance(dimension.domain, Choice) and not _is_plain(dimension.domain):
        return dimension.domain.options.index(value)
    return value


def _require_metric(name: str, own: Any, metric: str) -> None:
    if own is not None and own != metric:
        raise UsageError(
            f"{name} is for metric {own!r}, trials are judged by {metric!r}; leave its metric and mode out, or give "
            "that one."
        )


@contextlib.contextmanager
def _telling(name: str, method: str) -> Iterator[None]:
    """What goes wrong inside a searcher is told as its own."""
    try:
        yield
    except (Exhausted, NotImplementedError, UsageError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise ClusterError(f"Ray Tune's {name} failed in {method}: {reason}.") from error
