"""Seconds from one trial to the next, of trials that do no work: our engine and stock Ray Tune on one local Ray.

python bench/turnaround/run.py [TRIALS]     # prints a table; some minutes

Each trial reports one epoch. torch and timm are imported in the process that runs it, as any trial of images does. One
trial at a time; both sides in turns in one run; the search is the cheapest of either (random). Ours writes its journal.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray import tune

from hpo.config import load_sweep
from hpo.records import Journal
from hpo.search.engine import TrialResources, run_search
from hpo.search.sweep import Sweep

SWEEP = """
name: idle
data: bundled:clothing
hyperparameters: {{optim.lr: {{loguniform: [1e-4, 1e-2]}}, optim.max_epochs: 1}}
hyperparameter_tune_kwargs: {{searcher: random, scheduler: FIFO, num_trials: {trials}}}
"""


class Idle(tune.Trainable):
    """As hpo.cluster.trainable: stays from trial to trial."""

    def setup(self, config):
        import timm  # noqa: F401
        import torch  # noqa: F401

    def reset_config(self, new_config):
        return True

    def step(self):
        metrics = {"val_accuracy": self.config["params"]["optim.lr"]}
        return {"epoch": 1, "metrics": metrics, "checkpoint": "", "end": "", "at": time.time()}


def idle(config):
    import timm  # noqa: F401
    import torch  # noqa: F401

    tune.report({"val_accuracy": config["lr"], "at": time.time()})


def ours(trials, folder):
    (folder / "idle.yaml").write_text(SWEEP.format(trials=trials))
    sweep = Sweep(load_sweep(folder / "idle.yaml"), Journal(folder / "journal.jsonl"), "bench")
    sweep.start_attempt(job="", host="here", nodes=1, mode="gang")
    times = []
    sweep.listener = lambda event: times.append(event["t"]) if event["type"] == "reported" else None
    run_search(sweep, Idle, TrialResources(1, 0), folder, lambda trial: folder / trial)
    return times


def stock(trials, folder):
    tuner = tune.Tuner(
        tune.with_resources(idle, {"CPU": 1}),
        param_space={"lr": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder), verbose=0),
    )
    return sorted(result.metrics["at"] for result in tuner.fit())


def main(trials):
    os.environ |= {"RAY_worker_niceness": "0"}  # for both: at Ray's 15 a busy machine leaves workers nothing
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = {"ours": [], "stock": []}
    for _ in range(2):
        for name, run in (("ours", ours), ("stock", stock)):
            with tempfile.TemporaryDirectory() as folder:
                times = run(trials, Path(folder))
            gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
            found[name].append(statistics.median(gaps))
            print(name, "seconds from trial to trial:", " ".join(f"{gap:.2f}" for gap in gaps), flush=True)
    for name, values in found.items():
        print(f"{name:6} median {statistics.median(values):.2f} s (rounds: {values[0]:.2f}, {values[1]:.2f})")
    print(f"ratio {statistics.median(found['stock']) / statistics.median(found['ours']):.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
