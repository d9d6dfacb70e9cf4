"""The honest winner: trains the best trials again, to their end and with several seeds, and says what they are worth.

    python launch/retrain.py DIR --top 3 --seeds 5 --partition gpu     # submit; again: go on with what has not ended
    python launch/retrain.py DIR                                       # what has come out so far
    python launch/retrain.py DIR --test                                # use the test split, once

Each seed is a sweep of its own in DIR/retrain/seed-N, submitted as any other, so results.py and report.py work on it.
The default configuration is trained beside the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import contextlib
import dataclasses
import json
import math
import time
from typing import Any

from hpo.config import SweepConfig
from hpo.errors import SweepError, UsageError
from hpo.layout import SweepDirectory, open_sweep, read_json, write_json
from hpo.results.read import Results, read_results
from hpo.results.retraining import (
    Retraining,
    choose_candidates,
    read_retraining,
    read_test,
    render_retraining,
    say_test,
    seed_folders,
)
from hpo.staging import stage_sweep
from launch.flags import add_slurm_flags, as_flags, slurm_words
from launch.terminal import command, say, whole_number

_VERSION = 1
_WHERE = ("mode", "head_partition", "head_time")  # terms of the sweep that hold for its seeds; its limits are its own


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    directory = open_sweep(arguments.directory)
    results = read_results(directory)
    code = 0
    if arguments.seeds:
        code = _submit(directory, results, arguments)
    found = read_retraining(results)
    if not found.seeds:
        raise UsageError(
            f"nothing of {directory.root} was retrained yet; give --seeds 3, and --partition or --cluster local."
        )
    test = _test(directory, found) if arguments.test else read_test(directory)
    if arguments.json:
        sys.stdout.write(json.dumps(_to_json(found, test)) + "\n")
    else:
        lines = render_retraining(results, found) + ([say_test(test)] if test else [])
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    return code


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retrain.py",
        description="Trains the best trials of an ended sweep again with several seeds and compares their means. "
        "Without --seeds it shows what has come out so far.",
        epilog="example: python launch/retrain.py runs/clothing-20261124-7f3a --top 3 --seeds 5 --cluster local",
    )
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory")
    parser.add_argument(
        "--top", metavar="K", type=whole_number(1), default=3, help="so many of the best trials (default: 3)"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=whole_number(1), help="train with so many seeds other than the search's"
    )
    parser.add_argument("--test", action="store_true", help="judge the best mean on the test split, and note it down")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    where = parser.add_argument_group("where it runs (as submit.py; default: as the sweep did)")
    where.add_argument("--cluster", choices=("slurm", "local"))
    add_slurm_flags(where)
    return parser


def _submit(directory: SweepDirectory, results: Results, arguments: argparse.Namespace) -> int:
    """Begins the seeds that are missing and goes on with those that have not ended; the last error's exit code."""
    if results.status != "ended":
        raise UsageError(f"{directory.root} has not ended; retrain when it has, or end it: submit.py --resume.")
    candidates = choose_candidates(results, arguments.top)
    if not candidates:
        raise SweepError(f"no trial of {directory.root} has a value of {results.metric}; there is nothing to retrain.")
    resolved = read_json(directory.resolved)
    config = SweepConfig.from_json(resolved)
    points = tuple(dict(row.params) for row in candidates if row is not results.default)
    tune = dataclasses.replace(
        config.tune, scheduler="FIFO", searcher="random", num_trials=1 + len(points), num_to_keep=1
    )
    terms = {key: (resolved.get("terms") or {}).get(key) for key in _WHERE if arguments.cluster != "local"}
    code = 0
    for seed in range(config.seed + 1, config.seed + 1 + arguments.seeds):
        folder = seed_folders(directory).get(seed) or directory.root / "retrain" / f"seed-{seed}"
        if not folder.exists():
            again = dataclasses.replace(config, name=f"{config.name}-seed{seed}", seed=seed, points=points, tune=tune,
                                        source=f"# made by retrain.py from {directory.root.name}\n")  # fmt: skip
            stage_sweep(again, folder, resolved["cluster"], resolved["request"], terms, resolved.get("site"))
        code = _start(folder, arguments) or code
    return code


def _start(folder: Path, arguments: argparse.Namespace) -> int:
    """submit.py --resume: the one way by which attempts start."""
    from launch.submit import main as submit

    if read_results(SweepDirectory(folder)).status == "ended":
        return 0
    flags = [f"--cluster={arguments.cluster}"] if arguments.cluster else []
    flags += as_flags(slurm_words(arguments))
    with contextlib.redirect_stdout(sys.stderr):  # ours is for what all the seeds say together
        return submit(["--resume", str(folder), *flags])


def _test(directory: SweepDirectory, found: Retraining) -> dict[str, Any]:
    """The test split's scores of the best mean's models, from test.json if it was used before.

    Raises:
        UsageError: seeds are still at work. DataError: there is no test split.
    """
    if known := read_test(directory):
        say(f"the test split was used on {known['time']} already: its result stands, it is not used again")
        return known
    if found.unfinished or not found.candidates:
        raise UsageError(f"{len(found.unfinished)} of {len(found.seeds)} seeds have not ended; test when they have.")
    from hpo.export.testing import score_on_test

    best, folders = found.candidates[0], seed_folders(directory)
    scores = {str(seed): score_on_test(SweepDirectory(folders[seed]), best.params) for seed in best.values}
    names = next(iter(scores.values()))
    mean = {name: sum(one[name] for one in scores.values()) / len(scores) for name in names}
    now = time.strftime("%Y-%m-%d %H:%M")
    test = {"version": _VERSION, "time": now, "trial": best.trial, "seeds": scores, "mean": mean}
    write_json(directory.root / "retrain" / "test.json", test)
    return test


def _to_json(found: Retraining, test: dict[str, Any] | None) -> dict[str, Any]:
    """version, metric, seeds, unfinished, equal (trials that cannot be told from the first), test (or null),
    candidates best first: trial, searched, mean, spread or null, values {seed: value}, behind [difference, half width]
    or null."""
    candidates = [
        {"trial": one.trial, "searched": one.searched, "mean": one.mean, "values": one.values,
         "spread": None if math.isnan(one.spread) else one.spread, "behind": found.behind.get(one.trial)}
        for one in found.candidates
    ]  # fmt: skip
    return {"version": _VERSION, "metric": found.metric, "seeds": found.seeds, "unfinished": found.unfinished,
            "equal": found.equal, "candidates": candidates, "test": test}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
