"""What a sweep will cost: its own search and scheduler, simulated many times over worlds that differ."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.config import SweepConfig
from hpo.price.measured import Measured
from hpo.price.worlds import World
from hpo.search.replay import Replay
from hpo.search.simulation import simulate
from hpo.trialconfig import default_value

_WORLDS = 15
_PATIENCE_S = 20.0  # for all worlds together; fewer are drawn of a sweep with very many trials
# On an idle machine, see bench/price: Ray and driver until trials begin, which then import torch; the way of an epoch's
# report through Ray, the journal and back; and winner, report, study and the end of all processes.
_START_S, _REPORT_S, _END_S = 5.5, 0.03, 1.5
_DRIFT = (
    0.2  # deviation, as a share, of an epoch's time in a sweep from what a few updates took before, see bench/price
)


@dataclass(frozen=True)
class Range:
    """A tenth of the worlds lies below `low`, half below `middle`, a tenth above `high`."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class Forecast:
    """For one number of hosts with so many places for trials. wall_s: of an attempt that is not interrupted; work_s: of
    all places together, as far as they are busy; epochs: of all trials."""

    nodes: int
    places: int
    wall_s: Range
    work_s: Range
    epochs: Range


def forecast(config: SweepConfig, measured: Measured, nodes: int, worlds: int = _WORLDS) -> Forecast:
    """The sweep on `nodes` hosts."""
    simulated = _simulable(config)
    places = max(1, nodes * measured.place.at_once)
    opening = statistics.mean(pace.open_s for pace in measured.paces if pace)
    imports = statistics.mean(pace.import_s for pace in measured.paces if pace)
    slow, drifts, began = slowness(measured), _draw_drifts(worlds), time.monotonic()
    walls, works, epochs = [], [], []
    for number in range(worlds):
        world = World(
            config.space,
            _seed(config, number),
            lambda params: measured.pace(params).epoch_s + slow * _REPORT_S,
            _Compiler(measured),
        )
        replay = Replay(dataclasses.replace(simulated, seed=_seed(config, number)))
        course = simulate(replay, world, places, opening=opening)
        walls.append(drifts[number] * (course.seconds + slow * (_START_S + _END_S) + imports))
        works.append(drifts[number] * course.busy)
        epochs.append(float(course.epochs))
        if number >= 4 and time.monotonic() - began > _PATIENCE_S:
            break
    return Forecast(nodes, places, _range(walls), _range(works), _range(epochs))


class _Compiler:
    """Seconds that torch.compile takes of a trial: all of the first of its kind, none of later ones, which find its
    code; those that begin before it is there on other hosts are not counted."""

    def __init__(self, measured: Measured) -> None:
        self._measured, self._known = measured, set[int]()

    def __call__(self, params: Mapping[str, Any]) -> float:
        pace = self._measured.pace(params)
        if id(pace) in self._known:
            return 0.0
        self._known.add(id(pace))
        return pace.compile_s


def _draw_drifts(worlds: int) -> list[float]:
    """Factors of time, spread evenly over their distribution, in random order."""
    normal = statistics.NormalDist(0, _DRIFT)
    drifts = [math.exp(normal.inv_cdf((number + 0.5) / worlds)) for number in range(worlds)]
    random.Random(0).shuffle(drifts)
    return drifts


def slowness(measured: Measured) -> float:
    """By how much a busy machine stretches what takes CPU time: as it did while paces were measured. On a GPU 1."""
    used = [pace.cpus_used for pace in measured.paces if pace and pace.device == "cpu"]
    return max(1.0, max(1.0, measured.place.cpus) / max(statistics.mean(used), 0.02)) if used else 1.0


def _simulable(config: SweepConfig) -> SweepConfig:
    """Without what depends on values, not on ranks; searchers and schedulers of Ray Tune are taken as random search
    without early stopping."""
    tune = config.tune
    searcher = tune.searcher if isinstance(tune.searcher, str) else "random"
    scheduler = tune.scheduler if isinstance(tune.scheduler, str) else "FIFO"
    tune = dataclasses.replace(tune, searcher=searcher, scheduler=scheduler, target=None, deterministic=None)
    return dataclasses.replace(config, tune=tune, earlier={}, constraints={}, objectives=())


def bounds(config: SweepConfig, measured: Measured) -> tuple[float, float]:
    """Seconds of work for one place if every trial ended after its first epoch, and if none ended early."""
    trials = config.tune.num_trials
    shares = list(zip(measured.shares, measured.paces, strict=True))
    known = sum(share for share, pace in shares if pace)
    epoch = sum(share * pace.epoch_s for share, pace in shares if pace) / known
    opening = sum(share * pace.open_s for share, pace in shares if pace) / known
    longest, compiling = _mean_epochs(config), sum(pace.compile_s for _, pace in shares if pace)
    return trials * (opening + epoch) + compiling, trials * (opening + epoch * longest) + compiling


def _mean_epochs(config: SweepConfig) -> float:
    key = "optim.max_epochs"
    if key in config.space.constants or all(dimension.key != key for dimension in config.space.dimensions):
        return float(config.space.constants.get(key, default_value(key)))
    [domain] = [dimension.domain for dimension in config.space.dimensions if dimension.key == key][:1]
    return float(domain.middle())


def hosts_by(
    config: SweepConfig, measured: Measured, seconds: float, most: int
) -> tuple[Forecast | None, list[Forecast]]:
    """The fewest hosts with which nine of ten worlds are done within `seconds`, None if no number does, and all that
    were tried: doubled until it is enough, then between."""
    tried: dict[int, Forecast] = {}

    def enough(nodes: int) -> bool:
        tried.setdefault(nodes, forecast(config, measured, nodes, worlds=5))
        return tried[nodes].wall_s.high <= seconds

    nodes = 1
    while not enough(nodes) and nodes < most:
        nodes = min(most, nodes * 2)
    if not enough(nodes):
        return None, [tried[key] for key in sorted(tried)]
    low, high = max((n for n in tried if not enough(n)), default=0), nodes
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return tried[high], [tried[key] for key in sorted(tried)]


def _range(values: Sequence[float]) -> Range:
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return Range(at(0.1), at(0.5), at(0.9))


def _seed(config: SweepConfig, number: int) -> int:
    return 1000 * (config.seed + 1) + number
