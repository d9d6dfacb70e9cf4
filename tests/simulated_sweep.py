"""A sweep without training and without Ray: workers take times drawn at random, trials fail by rules.

python tests/simulated_sweep.py JOURNAL PACE      # a process that decides, to be killed
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from hpo.config import SweepConfig
from hpo.records import Journal
from hpo.search.lockstep import LockstepSweep
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.optim_type": "sgd"}},
    "optim.max_epochs": 9,
}
TRIALS = 18


def settings(**tune):
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(SPACE), tune=TuneConfig(**{"num_trials": TRIALS, **tune}),
        points=({"optim.lr": 0.09, "optim.optim_type": "adamw"},),
    )  # fmt: skip


def draw(*about):
    """A number of 0 to 1 that belongs to `about`."""
    return int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:4], "big") / 2**32


def train(params, epoch):
    """Its value after `epoch`, NaN where it diverges."""
    if params["optim.lr"] > 0.06:
        return math.nan
    slope = 2 + params.get("optim.momentum", 0.8)
    return math.exp(-((math.log10(params["optim.lr"]) + 2) ** 2)) * (1 - math.exp(-epoch / slope))


def fails(trial, epoch):
    """A trial in eight cannot be trained, or not beyond its first epoch; some processes are killed, each once."""
    if trial.number % 8 == 5 and epoch == (1 if trial.number > 8 else 2):
        return "exception"
    killed = draw("killed", trial.number, epoch) < 0.06
    return "killed" if killed and not any(failure["epoch"] == epoch - 1 for failure in trial.failures) else ""


class Enough(Exception):  # noqa: N818
    """Followed far enough."""


def begin(path, config, limit):
    journal = Journal(path)
    sweep = (LockstepSweep if config.tune.deterministic else Sweep)(config, journal, "a")
    left = itertools.count(limit or -1, -1)

    def listen(event):
        if next(left) == 1:
            raise Enough

    sweep.listener = listen
    return journal, sweep


def run(path, config, workers, pace, limit=None, rest=0.0):
    """An attempt of `workers` that take times of `pace`, to its end or until `limit` events were written; `rest`:
    seconds that pass in truth with each epoch."""
    journal, sweep = begin(path, config, limit)
    order, busy, now = itertools.count(), [], 0.0
    try:
        sweep.start_attempt(job="", host=f"h{pace}", nodes=1)
        while True:
            while len(busy) < workers and (trial := sweep.next_trial()):
                sweep.start_trial(trial.id, "n")
                epoch = trial.checkpoint[0] + 1 if trial.checkpoint else 1
                heapq.heappush(busy, (now + 0.1 + draw(pace, trial.id, epoch), next(order), trial, epoch, 0.02))
            if not busy:
                break
            now, _, trial, epoch, opened = heapq.heappop(busy)
            time.sleep(rest)
            if kind := fails(trial, epoch):
                sweep.fail_trial(trial.id, kind, "by rule")
                continue
            metrics = {"val_accuracy": train(trial.params, epoch), "seconds": 0.1 + draw(pace, trial.id, epoch)}
            if sweep.report(trial.id, epoch, metrics, f"c{epoch}", opened=opened):
                heapq.heappush(busy, (now + 0.1 + draw(pace, trial.id, epoch + 1), next(order), trial, epoch + 1, None))
        assert sweep.done
        sweep.end_attempt("all trials have ended")
    except Enough:
        pass
    journal.close()


if __name__ == "__main__":
    run(Path(sys.argv[1]), settings(deterministic=8, asha_type="promotion"), 8, int(sys.argv[2]), rest=0.01)
