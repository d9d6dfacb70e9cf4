"""The price against what real sweeps took, from the lines of run.py and recorded.py.

python bench/price/table.py bench/price/*.jsonl
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hpo.config import SweepConfig  # noqa: E402
from hpo.price.forecast import Forecast, Range, forecast  # noqa: E402
from hpo.price.measured import Measured, Pace, Place  # noqa: E402


def main(paths: list[str]) -> int:
    lines = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    for paces in dict.fromkeys(line["paces"] for line in lines):
        _show(paces, sorted((line for line in lines if line["paces"] == paces), key=lambda line: line["at"]))
    return 0


def _show(paces: str, lines: list[dict[str, Any]]) -> None:
    out = [
        f"\nPaces: {paces}\n",
        "| sweep | Ray up | epochs, foretold | real | wall, foretold | real | error |",
        "|---|---|---|---|---|---|---|",
    ]
    epochs, walls, inside = [], [], 0
    for line in lines:
        found = _forecast(line)
        real = sum(len(trial["seconds"]) for trial in line["trials"])
        epochs.append(found.epochs.middle / real - 1)
        walls.append(found.wall_s.middle / line["wall_s"] - 1)
        inside += found.wall_s.low <= line["wall_s"] <= found.wall_s.high
        cells = [_name(line), f"{line['start_s']:.0f} s", _range(found.epochs), f"{real}", f"{_range(found.wall_s)} s",
                 f"{line['wall_s']:.0f} s", f"{walls[-1]:+.0%}"]  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    off = [statistics.median(abs(error) for error in errors) for errors in (epochs, walls)]
    out.append(f"\nmedian error of {len(lines)}: epochs {off[0]:.0%}, wall time {off[1]:.0%}; "
               f"{inside} walls lie in the range")  # fmt: skip
    sys.stdout.write("\n".join(out) + "\n")


def _name(line: Mapping[str, Any]) -> str:
    tune, resolved = line["resolved"]["tune"], line["resolved"]
    how = tune["scheduler"] if tune["asha_type"] == "stopping" else f"{tune['scheduler']} {tune['asha_type']}"
    size = f"{tune['num_trials']} trials, {resolved['max_epochs']} epochs, {len(line['kinds'])} kinds"
    return f"{line['name']}: {size}, {tune['searcher']}, {how}"


def _forecast(line: Mapping[str, Any]) -> Forecast:
    config = SweepConfig.from_json(line["resolved"])
    measured = Measured(config, Place(None, config.tune.cpus_per_trial or 1, line["workers"]))
    paces = {json.dumps(kind["case"], sort_keys=True): kind["pace"] for kind in line["kinds"]}
    found = [paces.get(json.dumps(case, sort_keys=True)) for case in measured.cases]
    measured.paces = [Pace(**pace) if pace else None for pace in found]
    return forecast(config, measured, 1)


def _range(values: Range) -> str:
    return f"{values.middle:.0f} ({values.low:.0f} to {values.high:.0f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
