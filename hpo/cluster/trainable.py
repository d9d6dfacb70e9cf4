"""Where Ray and torch meet, and the only place: a Ray Tune Trainable whose step is one epoch of an hpo.trial.Training.

The process stays warm from trial to trial (`reset_config`). A failure that another configuration would not share is a
result, with its kind and cause; one after which the process is not to be trusted is raised, so that Ray ends it.
"""

from __future__ import annotations

import functools
import gc
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from hpo.config import SweepConfig
from hpo.errors import SlurmtuneError
from hpo.failures import CLASSES, TrialFailure, classify, describe
from hpo.layout import SweepDirectory, read_json
from hpo.trial.wear import Wear


def make_trainable(directory: SweepDirectory) -> type:
    """The Trainable class for the sweep in `directory`."""
    root = str(directory.root)

    class TrialActor(_TrialActor):
        sweep_root = root

    return TrialActor


class _TrialActor(tune.Trainable):
    sweep_root = ""

    def setup(self, config: dict[str, Any]) -> None:
        self._training: Any = None
        self._group: Any = None  # the processes of a trial that has several
        self._watchdog: Any = None
        self._trial = ""
        self._paused: Any = None  # trainings that are kept in memory
        self._wear = Wear()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._close(keep=self._paused is not None)
        return True

    def step(self) -> dict[str, Any]:
        self._opened: float | None = None
        self._trial = self.config["trial"]
        try:
            metrics = self._open_or_train()
        except Exception as error:  # whatever goes wrong: the trial ends or runs again, the sweep goes on
            return self._failure(error)
        self._watchdog.pause()
        trial = self.config["trial"]
        checkpoint = metrics.pop("checkpoint", "")
        return {
            "epoch": int(metrics.pop("epoch")),
            "metrics": {"host": socket.gethostname(), **metrics, "device": self._training.device},
            "checkpoint": f"trials/{trial}/{checkpoint}" if checkpoint else "",
            "end": self._training.finished,
            "opened": self._opened,
            "worn": self._wear.reason,
        }

    def _open_or_train(self) -> dict[str, Any]:
        """The next epoch's metrics. When the checkpoint is ahead of the journal, the driver was killed between the two:
        the metrics kept with the checkpoint make up for the report that was lost."""
        if self._training is None:
            self._training = self._open_timed(self.config["trial"], self.config["params"])
            if self._training.epoch > self.config["epoch"]:
                return dict(self._training.metrics)
        self._watchdog.tick()
        return dict(self._training.run_epoch())

    def cleanup(self) -> None:
        self._close()
        if self._paused is not None:
            self._paused.close()
        if self._group is not None:
            self._group.end()

    def _close(self, keep: bool = False) -> None:
        """`keep`: the training may stay in memory, should the trial have been paused."""
        if self._training is not None:
            if keep:
                self._paused.put(self._trial, self._training)
            else:
                self._training.close()
            self._training = None
            self._wear.end_trial(self._paused.bytes if self._paused else 0)
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def _open_timed(self, trial: str, params: dict[str, Any]) -> Any:
        """What a paused trial would cost again: not the imports, which a warm process has behind it."""
        directory = SweepDirectory(Path(self.sweep_root))
        config = SweepConfig.from_json(read_json(directory.resolved))
        if config.tune.ranks == 1:
            _import_trial()
        self._wear.begin_trial()
        if self._wear.reason:
            self._log(f"process {os.getpid()} is replaced after this trial: {self._wear.reason}\n")
        began = time.monotonic()
        training = self._open(trial, params, config, directory)
        self._opened = time.monotonic() - began
        return training

    def _open(self, trial: str, params: dict[str, Any], config: SweepConfig, directory: SweepDirectory) -> Any:
        from hpo.trial.watchdog import Watchdog

        self._watchdog = Watchdog(directory.fault(trial), config.tune.hang_timeout)
        self._watchdog.tick()
        known = None if config.tune.deterministic else directory.micro_batches  # what others found changes no trial
        what = (config.trial(params), config.data, directory.trial(trial), self._watchdog.tick, known)
        if config.tune.ranks > 1:
            from hpo.trial.group import RankedTraining

            self._group = self._group or _make_group(config.tune.ranks)
            more = (config.tune.hang_timeout, bool(config.tune.deterministic), directory.compiled)
            return RankedTraining(self._group, *what, *more)
        from hpo.trial import Training
        from hpo.trial.device import demand_determinism

        if config.tune.deterministic:
            demand_determinism()
        if config.tune.pauses:
            from hpo.trial.paused import PausedTrainings

            self._paused = self._paused or PausedTrainings()
            if (kept := self._paused.take(trial)) is not None:
                kept.resume(self._watchdog.tick)
                return kept
        return Training(*what, compiled=directory.compiled)

    def _failure(self, error: Exception) -> dict[str, Any]:
        kind, cause = classify(error), describe(error)
        self._log(f"{kind}: {cause}\n" if isinstance(error, SlurmtuneError) else traceback.format_exc())
        self._close()
        if CLASSES[kind].retries:
            raise TrialFailure(kind, cause)
        worn = "" if kind == "infeasible" else f"a trial failed in it ({kind})"
        failure = {"failure": {"kind": kind, "cause": cause}, "worn": worn}
        return {**failure, "epoch": 0, "metrics": {}, "checkpoint": "", "end": ""}

    def _log(self, text: str) -> None:
        try:
            folder = SweepDirectory(Path(self.sweep_root)).trial(self.config["trial"])
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (folder / "log.txt").open("a") as stream:
                stream.write(text)
        except OSError:  # no space: the journal will say it, if it can
            pass


def _make_group(ranks: int) -> Any:
    """The processes of a trial, as many in each bundle of its placement group: in the first, here, and in others."""
    from hpo.cluster.member import Member, own_interface
    from hpo.trial.group import Group
    from hpo.trial.rankprocesses import RankProcesses

    placement = get_current_placement_group()
    nodes = placement.bundle_count if placement else 1
    if nodes == 1:
        return Group(RankProcesses(ranks))
    here, (address, interface) = ranks // nodes, own_interface()
    create = functools.partial(RankProcesses, here, None)
    others = [Member(create, here, bundle) for bundle in range(1, nodes)]
    return Group(create(interface), *others, address=address)


def _import_trial() -> None:
    """Once in a process. What the imports leave stays for good, so the garbage collection between two trials need not
    look at it: with torch, timm and Ray that is a quarter of a second each time."""
    if "hpo.trial.training" not in sys.modules:
        import hpo.trial.training  # noqa: F401

        gc.freeze()
