"""What one rank of a training sees; a program for test_trial_ranks.py, which starts it once a rank.

RANK WORLD MEETING DATA DIRECTORY KEYS: writes one JSON object to stdout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import torch

from hpo.trial.compute import Compute
from hpo.trial.ranks import Ranks
from hpo.trial.training import Training
from hpo.trialconfig import TrialConfig


def seen(training):
    """Digest of the weights, the norm of each tensor that no statistic is, and the losses."""
    state = training._compute.weights()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
    names = ("train_loss", "val_loss", "val_accuracy", "micro_batch")
    values = {name: tensor.double().norm().item() for name, tensor in state.items()}
    return {"digest": digest, "weights": values, **{name: training.metrics[name] for name in names}}


def main(rank, world, meeting, data, directory, keys):
    meetings = iter(range(100))

    def begin(name, **more):
        config = TrialConfig.from_flat({**json.loads(keys), **more})
        ranks = Ranks(int(rank), int(world), f"{meeting}-{next(meetings)}")
        return Training(config, Path(data), Path(directory) / name, ranks=ranks)

    found = {}
    with begin("whole") as training:
        training.run_epoch()
        training.run_epoch()
        found["whole"] = seen(training)
    with begin("parted") as training:
        training.run_epoch()
    with begin("parted") as training:
        training.run_epoch()
        found["parted"] = seen(training)
    with begin("pieces", **{"env.per_gpu_batch_size": 5}) as training:
        training.run_epoch()
        training.run_epoch()
        found["pieces"] = seen(training)
    Compute._apart = lambda self, more: self._accelerator.no_sync(self.model)
    if int(world) > 1:
        with begin("alone") as training:
            training.run_epoch()
            training.run_epoch()
            found["alone"] = seen(training)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.suppress(BrokenPipeError):
        main(*sys.argv[1:])
