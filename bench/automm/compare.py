"""slurmtune against AutoMM's search policy: test accuracy and CPU seconds, at equal trials, epochs and seeds.

    python bench/automm/compare.py --data SHARDS --out RESULTS --seeds 5
    python bench/automm/compare.py --out RESULTS                    # the table of what is there

One process a run, one thread; a run that is there is not repeated. SHARDS is what launch/prepare.py makes of class
folders with train, validation and test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

from bench.automm.policies import POLICIES, configure
from hpo.layout import write_json

_MEANS = ("test", "validation", "epochs")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.one:
        _run(arguments.one, arguments)
        return 0
    for seed in range(arguments.seeds if arguments.data else 0):
        for name in POLICIES:
            if not _result(arguments.out, name, seed).is_file():
                command = [sys.executable, __file__, *sys.argv[1:], "--one", name, "--seed", str(seed)]
                subprocess.run(command, check=True)
    _print_table(arguments.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).absolute(), help="shards with three splits")
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True, help="a folder for results")
    for name, value in (("seeds", 5), ("trials", 12), ("epochs", 9), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--one", choices=POLICIES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _result(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.split()[0].replace(chr(39), '')}-{seed}.json"


def _run(name: str, arguments: argparse.Namespace) -> None:
    """One search, the soup of its best trial, and the test split at the end, which counts as no time."""
    import hpo.trial.training  # noqa: F401  imports are nobody's seconds
    from hpo.trial.soup import average, ranked_checkpoints

    arguments.out.mkdir(parents=True, exist_ok=True)
    config = configure(arguments.data, arguments.size, arguments.trials, arguments.epochs, arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.out) as place:
        folder = Path(place)
        policy = POLICIES[name](config, folder)
        began, curves = time.process_time(), _search(policy, config, folder)
        best = policy.best()
        soup = average(ranked_checkpoints(folder / best, config.mode)[:3], config.data)
        seconds = time.process_time() - began
        found = {
            "policy": name, "seed": arguments.seed, "cpu_seconds": seconds, "best": best, "curves": curves,
            "epochs": sum(len(curve) for curve in curves.values()), "validation": max(curves[best]),
            "test": _test(soup, config.data), "trials": arguments.trials, "max_epochs": arguments.epochs,
        }  # fmt: skip
    write_json(_result(arguments.out, name, arguments.seed), found)
    print({key: value for key, value in found.items() if key != "curves"}, flush=True)


def _search(policy: Any, config: Any, folder: Path) -> dict[str, list[float]]:
    """Runs trials one after the other until the policy wants no more; the curve of each."""
    from hpo.trial import Training

    curves: dict[str, list[float]] = {}
    while asked := policy.ask():
        key, params = asked
        with Training(config.trial(params), config.data, folder / key) as training:
            goes_on = True
            while goes_on:
                metrics = training.run_epoch()
                curves.setdefault(key, []).append(metrics[config.metric])
                goes_on = policy.tell(key, training.epoch, metrics, training.finished)
    return curves


def _test(soup: Any, data: Path) -> float:
    import numpy as np

    from hpo.data.read import open_split
    from hpo.data.rows import StoredSamples
    from hpo.trial.inference import TrainedModel

    shards = open_split(data, "test")
    stored = StoredSamples(shards, None)
    chances = TrainedModel(soup.meta, soup.weights).predict(stored.load(number) for number in range(len(shards)))
    return float(np.mean(chances.argmax(1) == shards.labels))


def _print_table(out: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    whole = {
        seed for seed in {run["seed"] for run in found} if sum(run["seed"] == seed for run in found) == len(POLICIES)
    }
    print("| policy | test accuracy, mean (each seed) | validation | CPU seconds | epochs |\n|---|---|---|---|---|")
    for name in POLICIES:
        runs = sorted(
            (run for run in found if run["policy"] == name and run["seed"] in whole), key=lambda run: run["seed"]
        )
        if runs:
            test, validation, epochs = (statistics.mean(run[key] for run in runs) for key in _MEANS)
            seconds = statistics.median(run["cpu_seconds"] for run in runs)
            each = ", ".join(f"{run['test']:.3f}" for run in runs)
            print(f"| {name} | {test:.4f} ({each}) | {validation:.4f} | {seconds:.0f} | {epochs:.1f} |")


if __name__ == "__main__":
    raise SystemExit(main())
