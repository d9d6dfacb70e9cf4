"""Do low rungs mislead? How rungs agree with the end of training, over random configurations of each task.

    python bench/search/agreement.py --data CURVES --tasks choose

For each rung: Spearman's correlation of its values with the final ones, and how often the best of 50 random
configurations is among the best third there, so that ASHA lets it go on. Needs no search, and takes a minute.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from methods import our_grace  # noqa: E402
from tasks import Curve, Task, load_tasks  # noqa: E402

from hpo.search.asha import place_rungs  # noqa: E402

_CONFIGURATIONS, _DRAWS, _AMONG, _REDUCTION = 300, 300, 50, 3


def value_at(curve: Curve, share: float) -> float:
    """The least error up to that share of the curve's epochs; infinite where the training diverges."""
    if not np.isfinite(curve.errors).all():
        return math.inf
    return float(curve.errors[: max(1, math.ceil(share * len(curve.errors)))].min())


def agreement(values: np.ndarray, final: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(side)) for side in (values, final)]
    return float(np.corrcoef(*ranks)[0, 1])


def kept_best(values: np.ndarray, final: np.ndarray, rng: np.random.Generator) -> float:
    """How often the one that ends best of _AMONG is among the best third by `values`."""
    kept = 0
    for _ in range(_DRAWS):
        drawn = rng.choice(len(final), min(_AMONG, len(final)), replace=False)
        best = values[drawn[final[drawn].argmin()]]
        kept += int((values[drawn] < best).sum() < len(drawn) // _REDUCTION)
    return kept / _DRAWS


def describe(task: Task) -> str:
    """A row of the table: each rung's epoch, correlation, and share of the best that are kept."""
    rng, world = np.random.default_rng(0), task.start()
    curves = [world(task.sample(rng)) for _ in range(_CONFIGURATIONS)]
    final = np.array([value_at(curve, 1.0) for curve in curves])
    cells = []
    for share in place_rungs(task.max_epochs, _REDUCTION, 0.0, our_grace(task))[:3]:
        values = np.array([value_at(curve, float(share)) for curve in curves])
        epoch = math.ceil(share * task.max_epochs)
        cells.append(f"{epoch}: {agreement(values, final):.2f}, {kept_best(values, final, rng):.2f}")
    return f"| {task.name} | {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with convnext/, taskset/ and lcbench/")
    parser.add_argument("--tasks", nargs="+", default=["choose"], help="choose, judge, or names")
    options = parser.parse_args(argv)
    sys.stdout.write("| task | first rung | second | third |\n|---|---|---|---|\n")
    for task in load_tasks(options.data, tuple(options.tasks)):
        sys.stdout.write(describe(task) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
