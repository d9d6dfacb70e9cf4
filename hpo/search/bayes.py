"""The Bayesian searcher: Optuna's multivariate TPE, shown the values of one rung only.

Ray's own OptunaSearch tells a trial that was stopped after one epoch as if its value were final; early values then
compete with final ones and the search is worse than random. Here the model sees, as BOHB does (Falkner et al. 2018),
the highest rung that enough trials have reached; the others count as running. A suggestion is a pure function of the
journal's prefix and the sweep's seed: the study is built anew for each from the fold, and the k-th suggestion has its
own random seed, so nothing needs saving.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.space import Choice, Dimension, Params, Range, Space

if TYPE_CHECKING:
    import optuna

_RANDOM_SHARE = 10  # every tenth suggestion is random: insurance against a model that is wrong
_TRIES = 50  # to find a configuration that was not tried before


@dataclass(frozen=True)
class Observation:
    """A configuration and its value at each rung it reached, lowest rung first; None is worst of all (diverged)."""

    params: Params
    values: Sequence[float | None]
    failed: bool = False  # out of the running without a value: neither good nor bad is known


@dataclass(frozen=True)
class Suggestion:
    params: Params
    origin: str  # default, user, random or model
    note: str = ""


def startup_trials(space: Space, num_trials: int) -> int:
    """Observations before the model is asked: 8, or one more than dimensions, but a third of a small sweep."""
    dimensions = len(space.dimensions)
    return max(dimensions + 1, min(8, num_trials // 3))


def suggestion_seed(seed: int, number: int) -> int:
    """The random seed of suggestion `number`: no generator has to be carried from one to the next."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def suggest(
    space: Space,
    seen: Sequence[Observation],
    number: int,
    *,
    seed: int,
    maximise: bool,
    startup: int,
    points: Sequence[Params] = (),
    model: bool = True,
) -> Suggestion:
    """Suggestion `number` (from 0) given all earlier ones in their order: the default, then the person's points, then
    random ones until `startup` observations share a rung, then the model's."""
    if number == 0:
        return Suggestion(space.default(), "default")
    if number <= len(points):
        return Suggestion(points[number - 1], "user")
    rng = random.Random(suggestion_seed(seed, number))
    rung, usable = _fidelity(seen, startup)
    if not model or rung < 0 or number % _RANDOM_SHARE == _RANDOM_SHARE - 1:
        return Suggestion(_untried(space, seen, lambda: space.sample(rng)), "random")
    study = _study(space, seen, rung, suggestion_seed(seed, number), maximise)
    params = _untried(space, seen, lambda: _ask(study, space), lambda: space.sample(rng))
    return Suggestion(params, "model", f"{usable} values at rung {rung + 1}")


def _fidelity(seen: Sequence[Observation], startup: int) -> tuple[int, int]:
    """The highest rung that `startup` finite values have reached, and how many have; (-1, 0) when none has."""
    highest = max((len(observation.values) for observation in seen), default=0)
    for rung in reversed(range(highest)):
        usable = sum(len(o.values) > rung and _finite(o.values[rung]) for o in seen)
        if usable >= startup:
            return rung, usable
    return -1, 0


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _untried(space: Space, seen: Sequence[Observation], first: Any, then: Any = None) -> Params:
    """The first configuration from `first`, later from `then`, that no trial had; any, when the space is used up."""
    tried = [observation.params for observation in seen]
    params: Params = first()
    for _ in range(_TRIES):
        if params not in tried or space.size <= len(tried):
            break
        params = (then or first)()
    return params


def _study(space: Space, seen: Sequence[Observation], rung: int, seed: int, maximise: bool) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():  # `group` is marked experimental since Optuna 2.8
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, multivariate=True, group=space.conditional, constant_liar=True
        )
    study = optuna.create_study(direction="maximize" if maximise else "minimize", sampler=sampler)
    finite = [float(o.values[rung]) for o in seen if len(o.values) > rung and _finite(o.values[rung])]  # type: ignore[arg-type]
    spread = 0.1 * (max(finite) - min(finite))
    worst = min(finite) - spread if maximise else max(finite) + spread
    study.add_trials([trial for o in seen if (trial := _told(space, o, rung, worst))])
    return study


def _told(space: Space, observation: Observation, rung: int, worst: float) -> optuna.trial.FrozenTrial | None:
    import optuna

    if observation.failed and len(observation.values) <= rung:
        return None
    reached = len(observation.values) > rung
    diverged = bool(observation.values) and not _finite(observation.values[-1])
    value = observation.values[rung] if reached else None
    active = space.active(observation.params)
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if reached or diverged else optuna.trial.TrialState.RUNNING,
        params={d.name: _encode(d, observation.params[d.key]) for d in active},
        distributions={d.name: distribution(d) for d in active},
        value=None if not (reached or diverged) else (float(value) if _finite(value) else worst),  # type: ignore[arg-type]
    )


def _ask(study: optuna.Study, space: Space) -> Params:
    trial = study.ask()

    def pick(dimension: Dimension) -> Any:
        domain, name = dimension.domain, dimension.name
        if isinstance(domain, Choice):
            return domain.options[trial.suggest_categorical(name, range(len(domain.options)))]
        if domain.integer:
            return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        return domain.clip(trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step))

    return space.build(pick)


def _encode(dimension: Dimension, value: Any) -> Any:
    """Options go by their place: they may be lists, which Optuna does not take."""
    return dimension.domain.options.index(value) if isinstance(dimension.domain, Choice) else value


def distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """Optuna's word for a domain; options go by their place."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    domain = dimension.domain
    if isinstance(domain, Choice):
        return CategoricalDistribution(tuple(range(len(domain.options))))
    assert isinstance(domain, Range)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
