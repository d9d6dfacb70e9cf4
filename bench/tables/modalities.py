"""What a table adds to photographs, and photographs to a table: test accuracy of one model with either or both.

    git clone https://github.com/alexeygrigorev/clothing-dataset
    python bench/tables/modalities.py --make clothing-dataset --out RESULTS     # garment.csv and its shards, 64 pixels
    python bench/tables/modalities.py --out RESULTS --seeds 5

images.csv of that dataset says of each photograph who sent it and whether it is for children. Garments of the ten most
frequent kinds are kept. One process; a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hpo.layout import write_json, write_text

KINDS, NOT_KINDS = 10, ("Not sure", "Other", "Skip")
LOOKS = {
    "photograph": ["timm_image"],
    "table": ["categorical_mlp"],
    "both": ["timm_image", "categorical_mlp"],
}
KEYS = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": "false",
    "optim.lr": 5e-3,
    "optim.max_epochs": 8,
    "env.batch_size": 64,
    "env.num_workers": 1,
    "env.accelerator": "cpu",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DATASET", help="the unpacked dataset")
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True)
    parser.add_argument("--seeds", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.make:
        _make(arguments.make.absolute(), arguments.out)
    for seed in range(arguments.seeds):
        for name in LOOKS:
            _run(name, seed, arguments.out)
    _print_table(arguments.out)
    return 0


def _make(dataset: Path, out: Path) -> None:
    from hpo.data.plan import Recipe
    from hpo.data.sources import SourceOptions, find_source
    from hpo.data.split import Shares
    from hpo.data.write import prepare

    with (dataset / "images.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] not in NOT_KINDS]
    kinds = [kind for kind, _ in Counter(row["label"] for row in rows).most_common(KINDS)]
    lines = ["photo,sender_id,label,kids"]
    for row in rows:
        photo = dataset / "images" / f"{row['image']}.jpg"
        if row["label"] in kinds and photo.is_file():
            lines.append(f"{photo},{row['sender_id']},{row['label']},{row['kids']}")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "garment.csv", "\n".join(lines) + "\n")
    types = (("sender_id", "categorical"), ("kids", "categorical"))
    options = SourceOptions(("photo",), ("label",), None, ("kids", "sender_id"), types)
    prepare(
        find_source(out / "garment.csv", options),
        out / "shards",
        Recipe(encoding="raw", size=64, shares=Shares(0.15, 0.2)),
    )


def _run(name: str, seed: int, out: Path) -> None:
    if (out / f"{name}-{seed}.json").is_file():
        return
    from hpo.trial import train
    from hpo.trialconfig import TrialConfig

    config = TrialConfig.from_flat(
        {**KEYS, "model.names": LOOKS[name]}, metric="val_accuracy", mode="max", seed=seed, num_to_keep=1
    )
    with tempfile.TemporaryDirectory(dir=out) as folder:
        began = time.process_time()
        result = train(config, out / "shards", Path(folder), lambda metrics: True)
        found = {"look": name, "seed": seed, "cpu_seconds": time.process_time() - began,
                 "validation": result.best_value, "test": _test(Path(folder), out / "shards")}  # fmt: skip
    write_json(out / f"{name}-{seed}.json", found)
    print(found, flush=True)


def _test(folder: Path, data: Path) -> float:
    from hpo.data.read import open_split
    from hpo.data.rows import StoredSamples, columns_of
    from hpo.trial.inference import TrainedModel
    from hpo.trial.soup import ranked_checkpoints

    best, shards = ranked_checkpoints(folder, "max")[0], open_split(data, "test")
    meta = best.load_meta()
    stored = StoredSamples(shards, columns_of(meta))
    chances = TrainedModel(meta, best.load_weights()).predict(stored.load(number) for number in range(len(shards)))
    return float((chances.argmax(1) == shards.labels).mean())


def _print_table(out: Path) -> None:
    found: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    print("| looks at | test accuracy, mean (each seed) | validation | CPU seconds |\n|---|---|---|---|")
    for name in LOOKS:
        runs = sorted((run for run in found if run["look"] == name), key=lambda run: run["seed"])
        if runs:
            test, validation = (statistics.mean(run[key] for run in runs) for key in ("test", "validation"))
            each = ", ".join(f"{run['test']:.3f}" for run in runs)
            seconds = statistics.median(run["cpu_seconds"] for run in runs)
            print(f"| {name} | {test:.4f} ({each}) | {validation:.4f} | {seconds:.0f} |")


if __name__ == "__main__":
    raise SystemExit(main())
