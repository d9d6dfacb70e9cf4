"""`bayes` with one part changed each: what was tried and left out. Run as methods `bayes-<name>`, see methods.py.

finer         evidence: values are compared at two levels between any two rungs as well, and before the first, so that
              trials at work say something before they come to a rung
extrapolated  evidence: of a trial at work beyond a rung, the value that its curve points to at the next one counts
weighted      model: a process for each rung, weighted by how well it orders the trials of the highest (Hyper-Tune,
              MFES-HB), in the place of the one process
bandit        which model and evidence: by how the trials of each have fared, not by coins
near-best     a fifth of the suggestions are near one of the three best (PriorBand's incumbents)
near-default  a third of the random ones are near the default (PriorBand's prior)
sobol         the first random ones are of a Sobol sequence
optuna-gp     model: Optuna's GPSampler, given the same scores, in the place of the process
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import optuna
from curves_seen import FinerLevels, extrapolate
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search import bayes
from hpo.search.bayes import Suggestion
from hpo.search.evidence import Evidence, Observation, encode, features, gather
from hpo.search.gaussian import GaussianProcess, normal_cdf
from hpo.search.optuna_form import domain_of
from hpo.search.parzen import Parzen
from hpo.search.sweep import Sweep
from hpo.space import Params

_BUSY, _LEADERS, _TRIES = 64, 8, 50
ARMS = [(deep, densities) for deep in (False, True) for densities in (False, True)]


class Variant(Sweep):
    """`bayes` as it is, in parts that can be changed."""

    def _suggestion(self, number: int) -> Suggestion:
        space = self.config.space
        if number == 0:
            return Suggestion(space.default(), "default")
        seed = bayes.suggestion_seed(self.config.seed, number)
        rng, dice = random.Random(seed), np.random.default_rng(seed)
        startup = bayes.startup_trials(space, self._first_num_trials)
        valued = (1 for o in self._seen if o.values and o.values[-1] is not None)
        if sum(islice(valued, startup)) < startup or number % 10 == 9:
            return Suggestion(self.at_random(rng, number), "random")
        evidence = self.gather()
        found = chain(self.found(evidence, dice, number), (space.sample(rng) for _ in repeat(None)))
        return Suggestion(next(p for p in found if p not in [o.params for o in self._seen]), "model")

    def at_random(self, rng: random.Random, number: int) -> Params:
        return self.config.space.sample(rng)

    def gather(self) -> Evidence:
        return gather(self.config.space, self._seen, maximise=False)

    def found(self, evidence: Evidence, dice: np.random.Generator, number: int) -> Iterator[Params]:
        deep, densities = self.choose(evidence, dice, number)
        view = evidence.at_rung(bayes._enough(evidence) if deep else 0)
        if densities:
            parzen = Parzen(self.config.space, view)
            return (parzen.draw(dice) for _ in range(_TRIES))
        return self.improving(evidence, view, dice)

    def choose(self, evidence: Evidence, dice: np.random.Generator, number: int) -> tuple[bool, bool]:
        return dice.random() < 0.5, dice.random() < 0.5

    def improving(self, evidence: Evidence, view: Evidence, dice: np.random.Generator) -> Iterator[Params]:
        return bayes._improving(self.config.space, view, dice)


class Finer(Variant):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._levels = FinerLevels(self._scheduler._shares, between=2)

    def gather(self) -> Evidence:
        return self._levels.gather(self.config.space, self.state.trials.values())

    def improving(self, evidence: Evidence, view: Evidence, dice: np.random.Generator) -> Iterator[Params]:
        """Noise grows from rung to rung as it does in `bayes`, not from level to level."""
        return super().improving(evidence, dataclasses.replace(view, rung=view.rung / 3), dice)


class Extrapolated(Variant):
    def gather(self) -> Evidence:
        shares, trials = self._scheduler._shares, self.state.trials.values()
        seen = [self._ahead(o, extrapolate(o.values, t, self.config.space, shares))
                for o, t in zip(self._seen, trials, strict=True)]  # fmt: skip
        return gather(self.config.space, seen, maximise=False)

    @staticmethod
    def _ahead(observation: Observation, value: float | None) -> Observation:
        return observation if value is None else Observation(observation.params, [*observation.values, value])


class Weighted(Variant):
    def improving(self, evidence: Evidence, view: Evidence, dice: np.random.Generator) -> Iterator[Params]:
        space = self.config.space
        values = [o.values for o in self._seen if o.values]
        points, busy = features(space, evidence.points), features(space, evidence.busy[-_BUSY:])
        models, members = [], []
        for rung in range(int(evidence.rung.max()) + 1):
            at = np.flatnonzero(evidence.rung >= rung)
            if len(at) < 3:
                break
            score = rank_scores([values[place][rung] for place in at])
            models.append(GaussianProcess(points[at], score, np.zeros(len(at)), busy))
            members.append((points[at], score))
        means = [*(model.predict(members[-1][0])[0] for model in models[:-1]), _left_out(*members[-1])]
        weights = np.array([agreement(mean, members[-1][1]) for mean in means]) ** 3
        return self._search(_Mixture(models, weights / weights.sum(), points), evidence.points, dice)

    def _search(self, mixture: _Mixture, points: np.ndarray, dice: np.random.Generator) -> Iterator[Params]:
        space, leaders = self.config.space, points[mixture.order[:_LEADERS]]
        near = [bayes._near(leaders[:many], 256, dice) for many in (_LEADERS, 3)]
        found = np.concatenate([dice.random((256, points.shape[1])), *near])
        worth = mixture.improvement(features(space, bayes._settled(space, found)))
        return (bayes._params(space, point) for point in found[np.argsort(-worth, kind="stable")[:_TRIES]])


class _Mixture:
    """Processes by their `weights`: mean and variance are weighted sums."""

    def __init__(self, models: list[GaussianProcess], weights: np.ndarray, points: np.ndarray) -> None:
        self._models, self._weights = models, weights
        means = self.predict(points)[0]
        self._best, self.order = means.max(), np.argsort(-means, kind="stable")

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [model.predict(points) for model in self._models]
        mean = sum(w * m for w, (m, _) in zip(self._weights, pairs, strict=True))
        variance = sum(w * w * s * s for w, (_, s) in zip(self._weights, pairs, strict=True))
        return np.asarray(mean), np.sqrt(np.maximum(variance, 1e-12))

    def improvement(self, points: np.ndarray) -> np.ndarray:
        mean, deviation = self.predict(points)
        z = (mean - self._best) / deviation
        return np.asarray(deviation * (np.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * normal_cdf(z)))


def rank_scores(values: list[float | None]) -> np.ndarray:
    """-log of the rank, 1 for the smallest."""
    order = np.argsort(np.argsort([math.inf if value is None else value for value in values], kind="stable"))
    return np.asarray(-np.log((order + 1) / (len(values) + 1)))


def agreement(mean: np.ndarray, score: np.ndarray) -> float:
    """The share of pairs that `mean` orders as `score` does."""
    pairs = (score[:, None] - score[None]) > 0
    return float(((mean[:, None] - mean[None])[pairs] > 0).mean()) if pairs.any() else 0.5


def _left_out(points: np.ndarray, score: np.ndarray, folds: int = 3) -> np.ndarray:
    """What a process says of each point that was fitted to the other folds."""
    fold, mean = np.arange(len(score)) % folds, np.zeros(len(score))
    for k in range(folds):
        rest, out = fold != k, fold == k
        process = GaussianProcess(points[rest], score[rest], np.zeros(int(rest.sum())), points[:0])
        mean[out] = process.predict(points[out])[0] * score[rest].std() + score[rest].mean()
    return mean


class Bandit(Variant):
    """An arm is a model with its evidence; it is drawn in proportion to exp(6 times the mean standing of its trials),
    no arm less than one time in twenty. Standing: 0 to 1 by score among the last 60."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arms: dict[int, int] = {}  # number of a trial -> which arm suggested it

    def choose(self, evidence: Evidence, dice: np.random.Generator, number: int) -> tuple[bool, bool]:
        numbers = [place for place, o in enumerate(self._seen) if o.values]
        known = [(self._arms[n], s) for n, s in zip(numbers, evidence.score, strict=True) if n in self._arms][-60:]
        standing = np.argsort(np.argsort([score for _, score in known])) / max(1, len(known) - 1)
        means = []
        for arm in range(len(ARMS)):
            own = [standing[place] for place, (by, _) in enumerate(known) if by == arm] if len(known) >= 8 else []
            means.append((sum(own) + 1.5) / (len(own) + 3))
        worth = np.exp(6 * (np.array(means) - max(means)))
        self._arms[number] = int(dice.choice(len(ARMS), p=0.8 * worth / worth.sum() + 0.05))
        return ARMS[self._arms[number]]


class NearBest(Variant):
    def found(self, evidence: Evidence, dice: np.random.Generator, number: int) -> Iterator[Params]:
        if dice.random() >= 0.2:
            return super().found(evidence, dice, number)
        best = evidence.points[np.argsort(-evidence.score, kind="stable")[:3]]
        return (bayes._params(self.config.space, point) for point in bayes._near(best, _TRIES, dice))


class NearDefault(Variant):
    def at_random(self, rng: random.Random, number: int) -> Params:
        space = self.config.space
        if rng.random() >= 1 / 3:
            return space.sample(rng)
        normal = np.random.default_rng(rng.getrandbits(32)).normal
        point = encode(space, [space.default()])[0] + normal(size=len(space.dimensions)) * 0.25
        return bayes._params(space, np.clip(1 - np.abs(1 - np.abs(point)), 0.0, 1.0))


class Sobol(Variant):
    def at_random(self, rng: random.Random, number: int) -> Params:
        from scipy.stats import qmc

        if number >= 64:
            return super().at_random(rng, number)
        points = qmc.Sobol(len(self.config.space.dimensions), scramble=True, seed=self.config.seed).random(64)
        return bayes._params(self.config.space, points[number])


class OptunaGP(Variant):
    """The sampler stands where the process does, so that the densities still take turns with it. A study is made anew
    of the view for each suggestion: linked scores change with each trial."""

    def improving(self, evidence: Evidence, view: Evidence, dice: np.random.Generator) -> Iterator[Params]:
        space = self.config.space
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.GPSampler(seed=int(dice.integers(2**31)), n_startup_trials=1)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([self._trial(params, float(s)) for params, s in zip(view.params, view.score, strict=True)])
        study.add_trials([self._trial(bayes._params(space, point), None) for point in view.busy[-_BUSY:]])
        asked = study.ask({dimension.name: domain_of(dimension) for dimension in space.dimensions}).params
        yield space.build(lambda dimension: asked[dimension.name])

    def _trial(self, params: Params, score: float | None) -> FrozenTrial:
        """Without a score: one that is at work."""
        domains = {dimension.name: domain_of(dimension) for dimension in self.config.space.dimensions}
        values = {dimension.name: params[dimension.key] for dimension in self.config.space.dimensions}
        for name, domain in domains.items():
            if not isinstance(domain, CategoricalDistribution):  # values are rounded to 12 digits
                values[name] = min(max(values[name], domain.low), domain.high)
        state = TrialState.RUNNING if score is None else TrialState.COMPLETE
        return create_trial(state=state, value=score, params=values, distributions=domains)


VARIANTS: dict[str, type[Variant]] = {
    "finer": Finer,
    "extrapolated": Extrapolated,
    "weighted": Weighted,
    "bandit": Bandit,
    "near-best": NearBest,
    "near-default": NearDefault,
    "sobol": Sobol,
    "optuna-gp": OptunaGP,
}
