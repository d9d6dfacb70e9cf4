"""Prices sweeps that have run already on this machine, from their directories: lines as run.py makes them.

python bench/price/recorded.py DIR... --out bench/price/results.jsonl             # paces from their own first epochs
python bench/price/recorded.py DIR... --out bench/price/results.jsonl --measure   # paces measured now, in CPU seconds

A sweep's own first epoch of each kind stands in for a probe that met the same load. Measured now, on a machine that is
busy with something else, CPU seconds count: what an epoch would take on an idle one. Comparable with sweeps that
ran alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from run import summarise  # noqa: E402

from bench.rows import add_row  # noqa: E402
from hpo.config import SweepConfig  # noqa: E402
from hpo.layout import SweepDirectory, read_json  # noqa: E402
from hpo.price.measured import Measured, Pace, Place, reduce  # noqa: E402
from hpo.records import SweepState, read_events  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    for path in options.directories:
        line = _price(path, options.measure)
        add_row(options.out, line)
        sys.stderr.write(f"{line['name']}: {line['wall_s']:.0f} s, {line['paces']}\n")
    return 0


def _price(path: Path, measure: bool) -> dict[str, Any]:
    directory = SweepDirectory(path)
    resolved = read_json(directory.resolved)
    config = SweepConfig.from_json(resolved)
    events = read_events(directory.journal)
    state = SweepState(events)
    cpus = next((event["cpus"] for event in events if event["type"] == "worker_joined"), 2)
    per_trial = config.tune.cpus_per_trial or 1
    measured = Measured(config, Place(None, per_trial, int(cpus / per_trial)))
    if measure:
        measured.measure(lambda text: sys.stderr.write(f"{text}\n"))
        measured.paces = [pace and _idle(pace) for pace in measured.paces]
    else:
        measured.paces = [_own(case, config, state) for case in measured.cases]
    kinds = [{"case": case, "pace": pace and dataclasses.asdict(pace)}
             for case, pace in zip(measured.cases, measured.paces, strict=True)]  # fmt: skip
    paces = "measured, CPU seconds" if measure else "own first epochs"
    about = {"name": config.name, "at": events[0]["t"], "paces": paces, "workers": measured.place.at_once}
    wall = {"wall_s": events[-1]["t"] - events[0]["t"], "cpu_s": None, "load": None, "kinds": kinds}
    return {**about, **wall, "resolved": {**config.to_json(), "data": config.data.name}, **summarise(events, state)}


def _idle(pace: Pace) -> Pace:
    """As it would be where nobody else works."""
    names = ("open_s", "update_s", "evaluation_s", "checkpoint_s")
    return dataclasses.replace(pace, **{name: getattr(pace, name) * pace.cpus_used for name in names}, cpus_used=1.0)


def _own(case: dict[str, Any], config: SweepConfig, state: SweepState) -> Pace | None:
    """The first epoch of the first trial of this kind."""
    for trial in state.trials.values():
        if trial.first and reduce(config.trial(trial.params), config.has_table) == case:
            return Pace("cpu", 0, 0, 0.05, trial.first[min(trial.first)]["seconds"], 1, 0.0, 0.0, 1.0)
    return None


if __name__ == "__main__":
    sys.exit(main())
