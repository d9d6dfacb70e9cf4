"""A scheduler of Ray Tune at work in a sweep: MedianStoppingRule, HyperBandScheduler, a person's own.

It is told of trials by its own methods in the order in which Tune would, live and again from the journal when a sweep
goes on, so it needs no saved state. It sees stand-ins: Ray's own Trial objects, which this module keeps in step with
the journal, and a controller with the few methods that schedulers call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.experiment import Trial as Standin
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler

from hpo.config import SweepConfig
from hpo.errors import ClusterError, UsageError
from hpo.records import Event, Trial
from hpo.search.ray_results import result_of

_WORDS = {TrialScheduler.CONTINUE: "continue", TrialScheduler.PAUSE: "pause", TrialScheduler.STOP: "stop",
          TrialScheduler.NOOP: "continue"}  # fmt: skip
_OPEN = (Standin.PENDING, Standin.PAUSED, Standin.RUNNING)


class RayScheduler:
    """`scheduler` with the metric of the sweep. `name`: of its class; `ahead`: how many trials are to be suggested
    before the first runs. HyperBand fills its brackets first, as under Tune; the others need one.

    Raises:
        UsageError: it is for another metric. ClusterError: from any method, when the scheduler itself fails.
    """

    def __init__(self, scheduler: TrialScheduler, config: SweepConfig) -> None:
        self.name = type(scheduler).__name__
        self.ahead = config.tune.num_trials if isinstance(scheduler, HyperBandScheduler) else 1
        self._scheduler, self._config = scheduler, config
        self._controller: Any = _Controller(self._remove)  # by its methods; Tune's own class needs a cluster
        self._verdicts: dict[str, str] = {}
        self._set_metric()

    def _set_metric(self) -> None:
        own, metric, mode = self._scheduler.metric, self._config.metric, self._config.mode
        if own is not None and own != metric:
            raise UsageError(
                f"scheduler {self.name} is for metric {own!r}, trials are judged by {metric!r}; leave its metric and "
                "mode out, or give that one."
            )
        with self._asking("set_search_properties"):
            for words in ((metric, mode), (metric, None), (None, mode)):  # it refuses what it has already
                if self._scheduler.set_search_properties(*words):
                    break

    # -- what happens to trials -------------------------------------------------------------------------------------

    def follow(self, event: Event, trial: Trial | None) -> None:
        """Takes one event of the journal, new or told again."""
        if event["type"] == "attempt_started":
            self._interrupt()
        if trial is None:
            return
        kind = event["type"]
        if kind == "suggested":
            self._add(trial)
        elif kind == "started":
            self._set(trial.id, Standin.RUNNING)
        elif kind == "reported" and trial.first[event["epoch"]] is event["metrics"]:
            self._report(trial, event["epoch"])
        elif kind == "judged":
            self._verdicts.pop(trial.id, None)
            self._set(trial.id, Standin.PAUSED if event["action"] == "pause" else Standin.TERMINATED)
        elif kind == "finished":
            self._end(trial)

    def take(self, trial_id: str) -> None:
        """The trial was handed out to be run; its start is not yet in the journal."""
        self._set(trial_id, Standin.RUNNING)

    def _add(self, trial: Trial) -> None:
        config = {**self._config.space.constants, **trial.params}
        standin = Standin(
            "slurmtune", stub=True, config=config, trial_id=trial.id, evaluated_params=dict(trial.params),
            experiment_tag=trial.id,
        )  # fmt: skip
        self._controller.trials[trial.id] = standin
        with self._asking("on_trial_add"):
            self._scheduler.on_trial_add(self._controller, standin)

    def _report(self, trial: Trial, epoch: int) -> None:
        """An epoch that is not the trial's last; the last is told when the trial ends."""
        if epoch >= self._config.trial(trial.params).optim.max_epochs or trial.first[epoch].get(self._metric) is None:
            return
        standin, result = self._controller.trials[trial.id], result_of(trial, epoch)
        with self._asking("on_trial_result"):
            self._verdicts[trial.id] = _WORDS[self._scheduler.on_trial_result(self._controller, standin, result)]
        standin.update_last_result(result)

    def _end(self, trial: Trial) -> None:
        standin = self._controller.trials[trial.id]
        self._verdicts.pop(trial.id, None)
        self._controller.dropped.pop(trial.id, None)
        if standin.status == Standin.TERMINATED:  # by its own word
            return
        failed = trial.state in ("failed", "diverged")
        with self._asking("on_trial_error" if failed else "on_trial_complete"):
            if failed:
                self._scheduler.on_trial_error(self._controller, standin)
            elif standin.status == Standin.RUNNING:
                result = result_of(trial, max(trial.first), done=True) if trial.first else {}
                self._scheduler.on_trial_complete(self._controller, standin, result)
            else:
                self._scheduler.on_trial_remove(self._controller, standin)
        standin.set_status(Standin.ERROR if failed else Standin.TERMINATED)

    def _remove(self, standin: Standin) -> None:
        """The scheduler ends a trial that waits."""
        with self._asking("on_trial_remove"):
            self._scheduler.on_trial_remove(self._controller, standin)

    def _interrupt(self) -> None:
        for standin in self._controller.trials.values():
            if standin.status == Standin.RUNNING:
                standin.set_status(Standin.PENDING)

    def _set(self, trial_id: str, status: str) -> None:
        self._controller.trials[trial_id].set_status(status)

    # -- what it says -----------------------------------------------------------------------------------------------

    def verdict(self, trial_id: str) -> str:
        """continue, pause or stop: its word on the trial's newest epoch."""
        return self._verdicts.get(trial_id, "continue")

    def dropped(self) -> list[str]:
        """Trials that it has ended while they were not its concern, and of which the journal does not say so yet."""
        return list(self._controller.dropped)

    def choose(self) -> str | None:
        """The next trial to run, of those that were suggested or paused; None: none now."""
        with self._asking("choose_trial_to_run"):
            standin = self._scheduler.choose_trial_to_run(self._controller)
        return None if standin is None else str(standin.trial_id)

    def rehearse(self) -> list[str]:
        """One trial and one decision; what it looks for in a result and does not find is told."""
        params = self._config.space.default()
        trial = Trial("0000", 0, params, "default")
        trial.first[1] = {self._metric: 0.5, "train_loss": 0.5, "seconds": 1.0}
        self._add(trial)
        self._set(trial.id, Standin.RUNNING)
        standin, probe = self._controller.trials[trial.id], _Probe(result_of(trial, 1))
        with self._asking("on_trial_result"):
            self._scheduler.on_trial_result(self._controller, standin, probe)
        known = "training_iteration, time_total_s and the trials' metrics"
        return [f"scheduler {self.name} looks for {key!r} in results, which have {known}" for key in probe.missed]

    @property
    def _metric(self) -> str:
        return self._config.metric

    @contextlib.contextmanager
    def _asking(self, method: str) -> Iterator[None]:
        """What goes wrong inside a scheduler is told as its own."""
        try:
            yield
        except ClusterError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
            raise ClusterError(f"Ray Tune's {self.name} failed in {method}: {reason}.") from error


class _Controller:
    """What schedulers ask of Tune's controller."""

    search_alg = None

    def __init__(self, remove: Callable[[Standin], None]) -> None:
        self.trials: dict[str, Standin] = {}
        self.dropped: dict[str, None] = {}  # in order
        self._remove = remove

    def get_trials(self) -> list[Standin]:
        return list(self.trials.values())

    def get_live_trials(self) -> list[Standin]:
        return [trial for trial in self.trials.values() if trial.status in _OPEN]

    def get_trial(self, trial_id: str) -> Standin | None:
        return self.trials.get(trial_id)

    def stop_trial(self, trial: Standin) -> None:
        if trial.is_finished():
            return
        self.dropped[trial.trial_id] = None
        if trial.status in (Standin.PENDING, Standin.PAUSED):
            self._remove(trial)
        trial.set_status(Standin.TERMINATED)

    def pause_trial(self, trial: Standin, should_checkpoint: bool = True) -> None:
        trial.set_status(Standin.PAUSED)


class _Probe(dict[str, Any]):
    """A result that notes which keys were looked for in vain."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result)
        self.missed: list[str] = []

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if not found:
            self.missed.append(str(key))
        return found

    def __missing__(self, key: str) -> Any:
        self.missed.append(key)
        raise KeyError(key)
