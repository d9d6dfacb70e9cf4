"""What a warm start brings: sweeps that begin with an earlier one's journal, on the same data and on other data.

    python bench/search/warm.py --data CURVES --out bench/search/results/warm --tasks judge --seeds 2
    python bench/search/table.py --results bench/search/results/warm --ours cold

The earlier sweep has another seed and 20 full trainings. `warm-same` was on the same task, so that its values count;
`warm-other` on the next task of the list, so that its best configurations are first points. Both come about as
submit.py --warm-start makes them, by hpo.warmstart.read_earlier of the earlier sweep's directory. Resumable.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from ours import Ours  # noqa: E402
from simulator import simulate  # noqa: E402
from tasks import Task, load_tasks  # noqa: E402

from hpo.warmstart import read_earlier  # noqa: E402

_WORKERS, _TRAININGS, _EARLIER = 8, 50, 20
KINDS = ("cold", "warm-same", "warm-other")


def learn(task: Task, seed: int, first: Mapping[str, Any], target: Ours) -> dict[str, Any]:
    """What a sweep on `task` teaches the one that `target` is to be."""
    old = Ours(task, seed + 1000, dict(first), searcher="bayes")
    try:
        simulate(old, task, _WORKERS, _EARLIER)
        about = dataclasses.replace(old.sweep.config, fingerprint=task.name).to_json()
        (old.folder / "resolved.json").write_text(json.dumps(about))
        new = dataclasses.replace(target.sweep.config, fingerprint=target.task.name)
        return read_earlier([old.folder], new.to_json(), new.space)
    finally:
        old.close()


def run_one(kind: str, task: Task, other: Task, seed: int) -> dict[str, Any]:
    """One line of the results."""
    first = task.sample(np.random.default_rng([seed, 12345]))
    began, tuner = time.process_time(), Ours(task, seed, first, searcher="bayes")
    if kind != "cold":
        earlier = learn(task if kind == "warm-same" else other, seed, first, tuner)
        tuner.close()
        tuner = Ours(task, seed, first, earlier, searcher="bayes")
    outcome = simulate(tuner, task, _WORKERS, _TRAININGS)
    tuner.close()
    about = {"method": kind, "task": task.name, "seed": seed, "workers": _WORKERS}
    return {**about, **vars(outcome), "cpu_s": round(time.process_time() - began, 2)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with convnext/, taskset/ and lcbench/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--tasks", nargs="+", default=["judge"], help="choose, judge, or names of LCBench's tasks")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    tasks = load_tasks(options.data, tuple(options.tasks))
    for seed in range(options.seeds):
        for place, task in enumerate(tasks):
            for kind in KINDS:
                _add(options.out / f"{kind}.jsonl", kind, task, tasks[(place + 1) % len(tasks)], seed)
    return 0


def _add(path: Path, kind: str, task: Task, other: Task, seed: int) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    if (task.name, seed) in {(line["task"], line["seed"]) for line in map(json.loads, lines)}:
        return
    line = run_one(kind, task, other, seed)
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    sys.stderr.write(f"{kind} {task.name} seed {seed}: {line['steps'][-1:]}, {line['cpu_s']} s\n")


if __name__ == "__main__":
    sys.exit(main())
