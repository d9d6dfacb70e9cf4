"""Ray Tune as the engine: it places trials on the cluster, starts and stops them; the Sweep decides.

Tune 2.60 restores its searcher from a periodic pickle and its ASHA not at all, so none of its state is kept: each
attempt is a new Tune run that the journal feeds. Small classes translate: Tune's Searcher, Scheduler, Callback and
Stopper each ask or tell the one Sweep. Nor does Tune retry: a trial that is to run again is handed to it as a new one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hpo.search.losses import SilenceWatch, read_loss
from hpo.search.places import Places
from hpo.search.sweep import Sweep

_COUNT_EVERY_S = 2.0
_HOPELESS = 3  # trials that failed, when no other has given a value: the sweep itself is wrong
_CRASH_LOOP = 5  # trials that failed alike, one after the other: something has been taken from under the sweep


@dataclass(frozen=True)
class TrialResources:
    """What one trial occupies of each of its `nodes` nodes."""

    cpus: float
    gpus: float
    nodes: int = 1

    def request(self) -> dict[str, float] | tune.PlacementGroupFactory:
        """As Ray Tune takes it: one bundle on each node."""
        bundle = {"CPU": self.cpus, "GPU": self.gpus}
        if self.nodes == 1:
            return bundle
        return tune.PlacementGroupFactory([bundle] * self.nodes, strategy="STRICT_SPREAD")

    def slots(self) -> int:
        """Trials that fit on the cluster as it is now, host by host."""
        fits = []
        for node in ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            by_cpu = has.get("CPU", 0) / self.cpus if self.cpus else math.inf
            by_gpu = has.get("GPU", 0) / self.gpus if self.gpus else math.inf
            fits.append(int(min(by_cpu, by_gpu) + 1e-9))
        return count_spread(fits, self.nodes)


def count_spread(fits: list[int], nodes: int) -> int:
    """Trials of `nodes` parts, each on another host, where hosts have room for so many parts."""
    trials = sum(fits) // nodes
    while trials and sum(min(fit, trials) for fit in fits) < nodes * trials:
        trials -= 1
    return trials


def run_search(
    sweep: Sweep, trainable: type, resources: TrialResources, folder: Path, locate: Callable[[str], Path]
) -> None:
    """Runs trials until the sweep is done, is hopeless or cannot go on. `folder` takes Tune's own files, which nobody
    reads; `locate` names the file in which a trial's process shows signs of life and leaves its last words.

    `trainable` is a class for Ray Tune whose `step` returns epoch, metrics, checkpoint, end, or failure.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    watch, places = SilenceWatch(sweep.config.tune.hang_timeout, locate), Places()
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources.request()),
        tune_config=tune.TuneConfig(
            search_alg=_JournalSearcher(sweep, resources),
            scheduler=_JournalScheduler(sweep),
            num_samples=-1,
            reuse_actors=True,  # a warm process spares each trial the seconds of importing torch
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.config['epoch']}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            stop=_Stopper(sweep, watch),
            callbacks=[_JournalCallback(sweep, watch, places, locate)],
            failure_config=tune.FailureConfig(max_failures=0),  # see _JournalCallback.on_trial_error
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials write their own
            verbose=0,
        ),
    )
    tuner.fit()


class _Stateless:
    """Tune pickles what it is given, for a restore of its own that is never used: the journal has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _JournalSearcher(_Stateless, Searcher):
    """Suggests when a place is free, not ahead of time: the last result counts for the next suggestion."""

    def __init__(self, sweep: Sweep, resources: TrialResources) -> None:
        super().__init__()
        self._sweep, self._resources = sweep, resources
        self._running: set[str] = set()
        self._slots, self._counted = 0, -math.inf

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= max(1, self._count_slots()):
            return None
        trial = self._sweep.next_trial()
        if trial is None:  # at FINISHED Tune asks no more, but a paused trial may still be promoted
            return str(Searcher.FINISHED) if self._sweep.done else None
        self._running.add(trial_id)
        return {"trial": trial.id, "params": trial.params, "epoch": trial.epochs}

    def _count_slots(self) -> int:
        """Tune asks ten times a second; hosts come and go more slowly."""
        if time.monotonic() - self._counted > _COUNT_EVERY_S:
            self._slots, self._counted = self._resources.slots(), time.monotonic()
        return self._slots

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _JournalScheduler(_Stateless, FIFOScheduler):
    """Writes down each epoch and passes on whether the trial continues.

    A paused trial is stopped, as Tune sees it, and later comes as a new one of the same name: Tune's own pausing would
    hold the place, checkpoint through the driver and forget it all on a restart.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self._sweep = sweep

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Right before Tune puts the trial's process by for the next trial."""
        if result.get("worn"):
            _keep_processes(tune_controller, False)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        _keep_processes(tune_controller, True)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        name = trial.config["trial"]
        if result.get("failure/kind"):
            self._sweep.fail_trial(name, result["failure/kind"], result["failure/cause"])
            return str(TrialScheduler.STOP)
        metrics = {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
        goes_on = self._sweep.report(
            name, result["epoch"], metrics, result["checkpoint"], result["end"], result.get("opened")
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


def _keep_processes(tune_controller: Any, keep: bool) -> None:
    """Whether Tune keeps the process of a trial that ends for the next. It has one word for all of a run, and a refusal
    by the process itself (reset_config returning False) fails the trial that was to come; so the word is changed while
    one trial ends. tests/cluster/test_sweep_local.py holds that it works."""
    tune_controller._reuse_actors = keep


class _JournalCallback(_Stateless, Callback):
    """Writes down starts and losses. A host takes its trials with it, and no trial is to blame for that."""

    def __init__(self, sweep: Sweep, watch: SilenceWatch, places: Places, locate: Callable[[str], Path]) -> None:
        self._sweep, self._watch, self._places, self._locate = sweep, watch, places, locate

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        name = trial.config["trial"]
        self._sweep.start_trial(name, self._places.note(name, trial))
        self._watch.start(name, trial)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._watch.end(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        name = trial.config["trial"]
        silence = self._watch.end(name)
        kind, cause = ("hang", silence) if silence else read_loss(trial, self._locate(name))
        if kind in ("killed", "host") and (host := self._places.lost_host(name)):
            kind, cause = "host", f"{host} was lost"
        self._sweep.fail_trial(name, kind, cause)


class _Stopper(_Stateless, Stopper):
    """Looks around between two events."""

    def __init__(self, sweep: Sweep, watch: SilenceWatch) -> None:
        self._sweep, self._watch = sweep, watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._watch.look()
        return bool(hopeless(self._sweep) or self._sweep.blocked)


def hopeless(sweep: Sweep) -> str:
    """What the first trials, or the last ones, all failed of: more would only fail the same. '' while there is hope."""
    ended = [trial for trial in sweep.state.trials.values() if trial.finished]
    last = sorted((t for t in ended if t.ended_at), key=lambda t: t.ended_at or 0)[-_CRASH_LOOP:]
    kinds = {failure["kind"] for t in last if t.state == "failed" for failure in t.failures[-1:]}
    loop = len(last) == _CRASH_LOOP and all(t.state == "failed" for t in last) and len(kinds) == 1
    failed = [t for t in ended if t.state == "failed" and t.failures[-1]["attempt"] == sweep.attempt
              and t.failures[-1]["kind"] != "infeasible"]  # fmt: skip
    first = len(failed) >= min(_HOPELESS, sweep.config.tune.num_trials)
    if loop and last[0] in failed and kinds != {"trial"}:
        return last[-1].reason
    return failed[-1].reason if first and not any(t.best for t in sweep.state.trials.values()) else ""
