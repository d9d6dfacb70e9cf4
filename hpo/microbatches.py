"""What fitted into memory: the micro-batches that trials of a sweep found, with which the next trials begin.

A file of the sweep's directory that follows from the journal; its one writer is the driver, trials read it.

    {"format": 1, "found": [{"model": ..., "image_size": ..., "precision": ..., "peft": ..., "ranks": 1,
                             "device": "NVIDIA H100 80GB HBM3", "micro_batch": 32, "trial": "0004"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.layout import read_json, write_json
from hpo.records import Event
from hpo.trialconfig import TrialConfig


class MicroBatches:
    """Is told every event of the journal, and keeps `path` up to date.

    Only halved ones are kept: of what fits as it was asked for there is nothing to remember.
    """

    def __init__(self, config: SweepConfig, path: Path, events: Iterable[Event] = ()) -> None:
        self._config, self._path = config, path
        self._params: dict[str, dict[str, Any]] = {}
        self._found: dict[str, dict[str, Any]] = {}
        for event in events:
            self._learn(event)
        if self._found:
            self._write()

    def watch(self, event: Event) -> None:
        if self._learn(event):
            self._write()

    def _learn(self, event: Event) -> bool:
        """Whether there is something new."""
        if event["type"] == "suggested":
            self._params[event["trial"]] = event["params"]
        if event["type"] != "reported" or "device" not in event["metrics"]:
            return False
        config, fits = self._config.trial(self._params[event["trial"]]), event["metrics"].get("micro_batch")
        about = conditions(config, event["metrics"]["device"], int(event["metrics"].get("ranks", 1)))
        name = json.dumps(about, sort_keys=True)
        known = self._found[name]["micro_batch"] if name in self._found else asked_micro_batch(config, about["ranks"])
        if not fits or fits >= known:
            return False
        self._found[name] = {**about, "micro_batch": int(fits), "trial": event["trial"]}
        return True

    def _write(self) -> None:
        write_json(self._path, {"format": 1, "found": list(self._found.values())})


def conditions(config: TrialConfig, device: str, ranks: int) -> dict[str, Any]:
    """On what it depends how many images fit; data and share of a GPU are the same for all trials of a sweep."""
    model, optim = config.model, config.optim
    return {
        "model": model.checkpoint_name,
        "image_size": model.image_size,
        "precision": config.env.precision,
        "peft": optim.peft,
        "ranks": ranks,
        "device": device,
    }


def asked_micro_batch(config: TrialConfig, ranks: int = 1) -> int:
    """Images at a time of one rank, if nothing is known of the memory."""
    share = -(-config.env.batch_size // ranks)
    return min(config.env.per_gpu_batch_size or share, share)


def remembered_micro_batch(path: Path | None, config: TrialConfig, device: str, ranks: int = 1) -> int:
    """The one to begin with: found by an earlier trial of the same model under the same conditions, else as asked."""
    asked, about = asked_micro_batch(config, ranks), conditions(config, device, ranks)
    if path is None:
        return asked
    try:
        found = read_json(path)["found"]
        return min([asked, *(int(one["micro_batch"]) for one in found if about.items() <= one.items())])
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, OSError):
        return asked  # it is not there yet, or is not readable: the trial finds out for itself
