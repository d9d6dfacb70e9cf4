"""Runs methods on tasks and adds one JSON line a run to the results file; a run that is there already is left out.

python bench/search/run.py --data CURVES --out bench/search/results --methods bayes --tasks choose
python bench/search/run.py --data CURVES --out OUT --methods bayes --tasks mine --curves mine.jsonl --workers 1 8 64
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from methods import METHODS, make_tuner  # noqa: E402
from simulator import simulate  # noqa: E402
from tasks import Task, load_tasks  # noqa: E402

TRAININGS = {1: 50, 8: 50, 64: 400}  # with 64 workers, 50 full trainings would be over before the first has ended


def run_one(method: str, task: Task, seed: int, workers: int) -> dict[str, Any]:
    """One line of the results."""
    first = task.sample(np.random.default_rng([seed, 12345]))
    tuner = make_tuner(method, task, seed, first, workers)
    began = time.process_time()
    about = {"method": method, "task": task.name, "seed": seed, "workers": workers}
    try:
        outcome = simulate(tuner, task, workers, TRAININGS[workers])
    except Exception as problem:  # noqa: BLE001  a peer's own error ends its run, which the table then counts
        return {**about, "failed": f"{type(problem).__name__}: {problem} ({_place(problem)})"}
    finally:
        if hasattr(tuner, "close"):
            tuner.close()
    return {**about, **vars(outcome), "cpu_s": round(time.process_time() - began, 2)}


def _place(problem: Exception) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with convnext/, taskset/ and lcbench/")
    parser.add_argument("--curves", type=Path, nargs="*", default=[], help="further files: *.jsonl or TaskSet's *.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--methods", nargs="+", required=True, choices=[*METHODS], metavar="METHOD")
    parser.add_argument("--tasks", nargs="+", default=["choose"], help="choose, judge, or names")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[8], choices=[*TRAININGS])
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    tasks = load_tasks(options.data, tuple(options.tasks), tuple(options.curves))
    for workers in options.workers:
        for seed in range(options.seeds):
            for method in options.methods:
                _run_missing(options.out / f"{method}.jsonl", method, tasks, seed, workers)
    return 0


def _run_missing(path: Path, method: str, tasks: tuple[Task, ...], seed: int, workers: int) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["task"], r["seed"], r["workers"]) for r in map(json.loads, lines)}
    for task in tasks:
        if (task.name, seed, workers) in done:
            continue
        line = run_one(method, task, seed, workers)
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        about = f"{method} {task.name} seed {seed} x{workers}"
        said = line.get("failed") or f"{line['steps'][-1:]} {line['trials']} trials, {line['cpu_s']} s"
        sys.stderr.write(f"{about}: {said}\n")


if __name__ == "__main__":
    sys.exit(main())
