"""Where Ray and torch meet, and the only place: a Ray Tune Trainable whose step is one epoch of an hpo.trial.Training.

The process stays warm from trial to trial (`reset_config`). What goes wrong inside a trial is a result, with its
kind and cause, not an exception: Ray retries only what it lost.
"""

from __future__ import annotations

import socket
import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from hpo.config import SweepConfig
from hpo.errors import AcceleratorError, DataError, SlurmtuneError, TrialError, WeightsError
from hpo.layout import SweepDirectory, read_json

_KINDS = {AcceleratorError: "accelerator", WeightsError: "weights", TrialError: "trial", DataError: "data"}


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

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        return True

    def step(self) -> dict[str, Any]:
        self._opened: float | None = None
        try:
            metrics = self._open_or_train()
        except SlurmtuneError as error:
            return self._failure(_kind(error), str(error))
        except Exception as error:  # a bug, ours or a library's: the trial ends, the sweep goes on
            self._log(traceback.format_exc())
            return self._failure("exception", f"{type(error).__name__}: {error}")
        trial = self.config["trial"]
        checkpoint = metrics.pop("checkpoint", "")
        return {
            "epoch": int(metrics.pop("epoch")),
            "metrics": {**metrics, "host": socket.gethostname()},
            "checkpoint": f"trials/{trial}/{checkpoint}" if checkpoint else "",
            "end": self._training.finished,
            "opened": self._opened,
        }

    def _open_or_train(self) -> dict[str, Any]:
        """The next epoch's metrics. When the checkpoint is ahead of the journal, the driver was killed between the two:
        the metrics kept with the checkpoint make up for the report that was lost."""
        if self._training is None:
            self._training = self._open_timed(self.config["trial"], self.config["params"])
            if self._training.epoch > self.config["epoch"]:
                return dict(self._training.metrics)
        return dict(self._training.run_epoch())

    def cleanup(self) -> None:
        if self._training is not None:
            self._training.close()
            self._training = None

    def _open_timed(self, trial: str, params: dict[str, Any]) -> Any:
        """What a paused trial would cost again: not the imports, which a warm process has behind it."""
        import hpo.trial.training  # noqa: F401

        began = time.monotonic()
        training = self._open(trial, params)
        self._opened = time.monotonic() - began
        return training

    def _open(self, trial: str, params: dict[str, Any]) -> Any:
        from hpo.trial import Training

        directory = SweepDirectory(Path(self.sweep_root))
        config = SweepConfig.from_json(read_json(directory.resolved))
        return Training(config.trial(params), config.data, directory.trial(trial))

    def _failure(self, kind: str, cause: str) -> dict[str, Any]:
        self._log(f"{kind}: {cause}\n")
        self.cleanup()
        one_line = " ".join(cause.split())[:500]
        return {"failure": {"kind": kind, "cause": one_line}, "epoch": 0, "metrics": {}, "checkpoint": "", "end": ""}

    def _log(self, text: str) -> None:
        log = SweepDirectory(Path(self.sweep_root)).trial(self.config["trial"]) / "log.txt"
        with log.open("a", encoding="utf-8") as stream:
            stream.write(text)


def _kind(error: SlurmtuneError) -> str:
    """The class of a failure in one word: oom where the error says so, else by its type."""
    named = getattr(error, "kind", None) or next(
        (kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "error"
    )
    return str(named)
