"""The table from the results: normalised regret, area, mean rank, speed-up, paired tests, in Markdown.

    python bench/search/table.py --results bench/search/results --split judge
    python bench/search/table.py --results bench/search/results --split choose --ours bayes --workers 8
    python bench/search/table.py --results bench/search/results --curves bench/search/curves/clothing.jsonl

Regret is (error - best) / (usual - best) of a task: best is the smallest error that any run or 4,000 random
configurations found, usual the median of a random configuration. Means are over tasks of means over seeds. Tests are
Wilcoxon's signed-rank over tasks (each the mean over its seeds), `ours` against each, with Holm's correction within a
column; intervals are of 2,000 bootstraps over tasks. Budgets are full trainings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tasks import load_convnext

BUDGETS = {1: (5, 10, 20, 50), 8: (5, 10, 20, 50), 64: (50, 100, 200, 400)}
_NOTHING = 1.5  # regret before the first report, and at most
Run = dict[str, Any]


def read_runs(folder: Path, workers: int) -> list[Run]:
    runs = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [run for run in runs if run["workers"] == workers]


def count_failed(runs: list[Run]) -> str:
    """Runs that ended in an error of the peer's own, in words."""
    failed = [run for run in runs if "failed" in run]
    words = {f"{run['method']}: {sum(r['method'] == run['method'] for r in failed)} runs, {run['failed']}"
             for run in failed}  # fmt: skip
    return "".join(f"\nLeft out, as they failed: {line}\n" for line in sorted(words))


def by_seed(runs: list[Run], curves: Sequence[Path]) -> tuple[list[Run], dict[str, tuple[float, float]]]:
    """The runs on the tasks of `curves`, each seed as a task of its own, and their scales: tests and intervals are
    then over seeds."""
    scales = {task.name: (task.best, task.usual) for task in map(load_convnext, curves)}
    runs = [{**run, "task": f"{run['task']}, seed {run['seed']}"} for run in runs if run["task"] in scales]
    return runs, {run["task"]: scales[run["task"].rpartition(", seed ")[0]] for run in runs}


def regret_at(run: Run, budget: float, best: float, usual: float) -> float:
    errors = [error for spent, error in run["steps"] if spent <= budget]
    return min((errors[-1] - best) / (usual - best), _NOTHING) if errors else _NOTHING


def regrets(run: Run, budgets: Iterable[float], best: float, usual: float) -> list[float]:
    """Regret at each budget, then the area below its curve over the logarithm of the budget."""
    budgets = list(budgets)
    grid = np.geomspace(budgets[0] / 5, budgets[-1], 40)
    return [*(regret_at(run, b, best, usual) for b in budgets),
            float(np.mean([regret_at(run, b, best, usual) for b in grid]))]  # fmt: skip


def budget_to_reach(run: Run, error: float, budget: float) -> float:
    """Full trainings until `run` has `error`; infinite if it never does."""
    return next((spent for spent, found in run["steps"] if found <= error and spent <= budget), math.inf)


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test, exact up to 20 differences (no ties are counted), else normal."""
    d = differences[differences != 0]
    n = len(d)
    if n == 0:
        return 1.0
    ranks = np.argsort(np.argsort(abs(d))) + 1
    positive = float(ranks[d > 0].sum())
    if n > 20:
        mean, sd = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.erfc(abs(positive - mean) / sd / math.sqrt(2))
    counts = np.array([1.0])
    for rank in range(1, n + 1):
        counts = np.concatenate([counts, np.zeros(rank)]) + np.concatenate([np.zeros(rank), counts])
    low = int(min(positive, n * (n + 1) / 2 - positive))
    return min(1.0, 2 * counts[: low + 1].sum() / 2.0**n)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction of a family of p-values."""
    corrected, highest = {}, 0.0
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, value * (len(p) - place)))
        corrected[name] = highest
    return corrected


class Table:
    """Means per method and task, over the seeds that method has."""

    def __init__(
        self, runs: list[Run], scales: Mapping[str, tuple[float, float]], workers: int, by_seed: bool = False
    ) -> None:
        self.budgets, self._by_seed = BUDGETS[workers], by_seed
        best = {task: min([scale[0], *(r["steps"][-1][1] for r in runs if r["task"] == task and r["steps"])])
                for task, scale in scales.items()}  # fmt: skip
        self._runs: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
        self.values: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for run in runs:
            if run["task"] in scales:
                self._runs[run["method"]][run["task"]].append(run)
        for method, tasks in self._runs.items():
            for task, found in tasks.items():
                rows = [regrets(run, self.budgets, best[task], scales[task][1]) for run in found]
                self.values[method][task] = np.mean(rows, 0)

    def methods(self, tasks: list[str]) -> list[str]:
        """Those that have every task, the best at the last budget first."""
        whole = [m for m in self.values if all(task in self.values[m] for task in tasks)]
        return sorted(whole, key=lambda m: float(np.mean([self.values[m][t][-2] for t in tasks])))

    def seeds(self, method: str) -> int:
        counts = [len(runs) for runs in self._runs[method].values()]
        return len(counts) if self._by_seed else min(counts)

    def column(self, method: str, tasks: list[str], place: int) -> np.ndarray:
        return np.array([self.values[method][task][place] for task in tasks])

    def speed(self, method: str, tasks: list[str], reference: str = "random-asha") -> float:
        """Median over tasks of the share of the whole budget that `method` needs, in the median over its seeds, for
        the median error of `reference` at the whole budget."""
        shares = []
        for task in tasks:
            goal = float(np.median([r["steps"][-1][1] for r in self._runs[reference][task]]))
            needed = [budget_to_reach(r, goal, self.budgets[-1]) for r in self._runs[method][task]]
            shares.append(float(np.median(needed)) / self.budgets[-1])
        return float(np.median(shares))


def write_table(table: Table, tasks: list[str], ours: str) -> str:
    methods = table.methods(tasks)
    places = range(len(table.budgets) + 1)
    columns = {m: np.stack([table.column(m, tasks, place) for place in places]) for m in methods}
    ranks = _mean_ranks({m: columns[m][-2] for m in methods})
    others = [m for m in methods if m != ours]
    p = [holm({m: wilcoxon(columns[ours][place] - columns[m][place]) for m in others}) for place in places]
    heads = [*(f"@{b}" for b in table.budgets), "area"]
    lines = [f"| method | seeds | {' | '.join(heads)} | rank | budget |", "|---|---|" + "---|" * (len(heads) + 2)]
    for m in methods:
        cells = [f"{columns[m][place].mean():.3f}{_mark(columns, p[place], m, ours, place)}" for place in places]
        low, high = _interval(columns[m][-2])
        cells[-2] += f" ({low:.3f} to {high:.3f})"
        lines.append(f"| {f'**{m}**' if m == ours else m} | {table.seeds(m)} | {' | '.join(cells)} | {ranks[m]:.1f} | "
                     f"{_share(table.speed(m, tasks))} |")  # fmt: skip
    return "\n".join(lines)


def write_against_rungs(table: Table, tasks: list[str], ours: str) -> str:
    """`ours` among the peers that were given our rungs: its mean rank, and the median peer of each task."""
    peers = [m for m in table.methods(tasks) if m.endswith("-rungs")]
    if not peers:
        return ""
    told = []
    for place, budget in enumerate(table.budgets):
        values = {m: table.column(m, tasks, place) for m in [ours, *peers]}
        median = np.median([values[m] for m in peers], 0)
        rank, p = _mean_ranks(values)[ours], wilcoxon(values[ours] - median)
        told.append(f"@{budget} {values[ours].mean():.3f} against {median.mean():.3f} (p {p:.2g}), rank {rank:.1f}")
    best = min(_mean_ranks(values)[m] for m in peers)
    head = f"Against the median of the {len(peers)} peers with our rungs"
    return f"\n{head}: {'; '.join(told)}; the best of them {best:.1f} at the end.\n"


def _mark(columns: Mapping[str, np.ndarray], p: Mapping[str, float], method: str, ours: str, place: int) -> str:
    """* where `ours` is significantly better than `method`, ! where it is significantly worse (Holm, 5 %)."""
    if method == ours or p[method] >= 0.05:
        return ""
    return "*" if columns[ours][place].mean() < columns[method][place].mean() else "!"


def _mean_ranks(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    methods = list(values)
    matrix = np.stack([values[m] for m in methods])
    below = (matrix[:, None] > matrix[None]).sum(1) + 0.5 * ((matrix[:, None] == matrix[None]).sum(1) - 1)
    return dict(zip(methods, (1 + below).mean(1), strict=True))


def _interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _share(share: float) -> str:
    return f"{share:.2f}x" if share <= 1 else "over 1x"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--split", default="judge", help="choose or judge")
    parser.add_argument("--curves", type=Path, nargs="+", help="instead: jsonl given to run.py; a seed is a task")
    parser.add_argument("--ours", default="bayes")
    parser.add_argument("--workers", type=int, default=8, choices=[*BUDGETS])
    parser.add_argument("--seeds", type=int, default=20, help="at most so many, the first ones")
    options = parser.parse_args(argv)
    scales = json.loads(Path(__file__).with_name("scales.json").read_text())
    chosen = {name: (s["best"], s["usual"]) for name, s in scales.items() if s["split"] == options.split}
    every = [run for run in read_runs(options.results, options.workers) if run["seed"] < options.seeds]
    if options.curves:
        every, chosen = by_seed(every, options.curves)
    runs = [run for run in every if "failed" not in run]
    table = Table(runs, chosen, options.workers, by_seed=bool(options.curves))
    tasks = sorted(set(chosen) & {task for task in table.values[options.ours]})
    head = f"{len(tasks)} {'seeds' if options.curves else f'tasks ({options.split})'}, {options.workers} workers"
    sys.stdout.write(f"{head}\n\n{write_table(table, tasks, options.ours)}\n"
                     f"{write_against_rungs(table, tasks, options.ours)}{count_failed(every)}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
