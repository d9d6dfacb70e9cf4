"""Ray Tune as the engine: it places trials on the cluster, starts them again and stops them; the Sweep decides.

Tune 2.60 restores its searcher from a periodic pickle and its ASHA not at all, so none of its state is kept: each
attempt is a new Tune run that the journal feeds. Three small classes translate: Tune's Searcher, Scheduler and
Callback each ask or tell the one Sweep.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hpo.search.sweep import Sweep

_RETRIES = 3  # of a trial whose process or host was lost
_COUNT_EVERY_S = 2.0
_HOPELESS = 3  # trials that failed, when no other has given a value: the sweep itself is wrong


@dataclass(frozen=True)
class TrialResources:
    """What one trial occupies."""

    cpus: float
    gpus: float

    def slots(self) -> int:
        """Trials that fit on the cluster as it is now, host by host."""
        fit = 0
        for node in ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            by_cpu = has.get("CPU", 0) / self.cpus if self.cpus else math.inf
            by_gpu = has.get("GPU", 0) / self.gpus if self.gpus else math.inf
            fit += int(min(by_cpu, by_gpu) + 1e-9)
        return fit


def run_search(sweep: Sweep, trainable: type, resources: TrialResources, folder: Path) -> None:
    """Runs trials until the sweep is done, or is hopeless. `folder` takes Tune's own files, which nobody reads.

    `trainable` is a class for Ray Tune whose `step` returns epoch, metrics, checkpoint, end, or failure.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": resources.cpus, "GPU": resources.gpus}),
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
            stop=_HopelessStopper(sweep),
            callbacks=[_JournalCallback(sweep)],
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
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

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        name = trial.config["trial"]
        if result.get("failure/kind"):
            self._sweep.fail_trial(name, result["failure/kind"], result["failure/cause"], retry=False)
            return str(TrialScheduler.STOP)
        metrics = {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
        goes_on = self._sweep.report(
            name, result["epoch"], metrics, result["checkpoint"], result["end"], result.get("opened")
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class _JournalCallback(_Stateless, Callback):
    """Writes down starts and losses."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        names = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in ray.nodes()}
        address = trial.get_ray_actor_ip() or ""
        self._sweep.start_trial(trial.config["trial"], names.get(address, address))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._sweep.fail_trial(trial.config["trial"], "lost", _cause(trial), retry=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._sweep.fail_trial(trial.config["trial"], "lost", _cause(trial), retry=False)


class _HopelessStopper(_Stateless, Stopper):
    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return hopeless(self._sweep) != ""


def hopeless(sweep: Sweep) -> str:
    """The common cause when the first trials all failed and none has given a value: more would only fail the same."""
    trials = list(sweep.state.trials.values())
    failed = [trial for trial in trials if trial.state == "failed" and trial.failures[-1]["attempt"] == sweep.attempt]
    if len(failed) < min(_HOPELESS, sweep.config.tune.num_trials) or any(trial.best for trial in trials):
        return ""
    return failed[-1].reason


def _cause(trial: TuneTrial) -> str:
    """The last line that says something in the error that Tune recorded."""
    try:
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    except (OSError, TypeError):
        lines = []
    return lines[-1][:300] if lines else "its process or host was lost"
