"""Real learning curves of our own: random configurations of the demo's space, trained to their end, a JSON line each.

    python bench/search/record.py --data runs/data/clothing-64px --out bench/search/curves/clothing.jsonl --count 300
    python bench/search/run.py --data CURVES --curves bench/search/curves/clothing.jsonl --tasks clothing ...

The form is opda's: the configuration, `epochs` (3 to 9, drawn as well), and `learning_curve` with the validation
accuracy and the time after each epoch. Times are CPU seconds of the process, so that a busy machine does no harm. A
training that diverges has no further epochs. Configuration k is always the same: a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SLURMTUNE_CPUS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hpo.config import SweepConfig, load_sweep  # noqa: E402
from hpo.data.bundled import ensure_demo_data  # noqa: E402

_EPOCHS = (3, 9)


def record(config: SweepConfig, data: Path, number: int) -> dict[str, Any]:
    """The line of configuration `number`."""
    import hpo.trial.training  # noqa: F401  not to be paid for by the first
    from hpo.trial import train

    rng = random.Random(number)
    params, epochs, curve = config.space.sample(rng), rng.randint(*_EPOCHS), []
    began = time.process_time()

    def keep(metrics: dict[str, Any]) -> bool:
        spent, accuracy = time.process_time() - began, metrics["val_accuracy"]
        if math.isfinite(accuracy):
            curve.append({"epoch": metrics["epoch"], "time": round(spent, 3), "top_1": round(accuracy, 6)})
        return True

    with tempfile.TemporaryDirectory() as folder:
        train(config.trial({**params, "optim.max_epochs": epochs}), data, Path(folder), keep)
    short = {name.rpartition(".")[2]: value for name, value in params.items()}
    return {"iteration": number, **short, "epochs": epochs, "learning_curve": curve}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the demo's shards; made if they are not there")
    parser.add_argument("--out", type=Path, required=True, help="a jsonl file, which is added to")
    parser.add_argument("--count", type=int, default=300, help="configurations in all")
    parser.add_argument("--first", type=int, default=0, help="those from this number on: for a second process")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data, config = ensure_demo_data(options.data), load_sweep(ROOT / "launch" / "demo" / "sweep.yaml")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.loads(line)["iteration"] for line in lines}
    for number in (n for n in range(options.first, options.count) if n not in done):
        line = record(config, data, number)
        with options.out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        last = line["learning_curve"][-1:]
        sys.stderr.write(f"{number + 1} of {options.count}: {last}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
