"""The same trial by 1, 2 and 4 processes on CPUs: effective batch, updates, accuracy, memory.

    python bench/ranks/compare.py --images PHOTOGRAPHS --work /tmp/bench [--seeds 5] [--out FILE.jsonl]

Photographs of 64 pixels, test_resnet (batch norms, which see the images of their rank only) and test_vit (without) from
scratch. env.batch_size is that of all processes; seeds are the same for each number of them. Differences of accuracy
are taken seed by seed and stand beside the deviation between the seeds of one process: what chance alone does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.data.photographs import need_shards
from bench.rows import add_row, read_rows

WORLDS, MODELS, BATCH = (1, 2, 4), ("test_resnet", "test_vit"), 64


def run(arguments, model, world, seed):
    from hpo.trial.loop import train
    from hpo.trialconfig import TrialConfig

    keys = {
        "model.timm_image.checkpoint_name": model, "model.timm_image.pretrained": "false",
        "model.timm_image.image_size": 64, "env.batch_size": BATCH, "env.accelerator": "cpu", "env.num_workers": 1,
        "optim.lr": 5e-3 if model == "test_resnet" else 1e-3, "optim.max_epochs": arguments.epochs,
    }  # fmt: skip
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        config = TrialConfig.from_flat(keys, seed=seed)
        train(config, arguments.work / "shards-64", Path(folder), lambda m: not seen.append(m), world)
        meta = json.loads(next(Path(folder).glob("checkpoint/last-*/meta.json")).read_text())
    last = seen[-1]
    row = {
        "model": model,
        "processes": world,
        "seed": seed,
        "accuracy": last["val_accuracy"],
        "loss": last["train_loss"],
    }
    row |= {
        "micro_batch": last["micro_batch"],
        "batch": meta["config"]["env.batch_size"],
        "ranks": last.get("ranks", 1),
    }
    return row | {"seconds": time.perf_counter() - began, "load": os.getloadavg()[0]}


def deviation(values):
    return f"({statistics.stdev(values):.3f})" if len(values) > 1 else "(one seed)"


def table(rows):
    lines = ["| model | processes | images each | accuracy, mean (deviation) | difference to 1, mean (deviation) |",
             "|---|---|---|---|---|"]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        by = {(row["processes"], row["seed"]): row for row in rows if row["model"] == model}
        for world in WORLDS:
            found = {seed: row for (w, seed), row in by.items() if w == world and (1, seed) in by}
            if not found:
                continue
            values = [row["accuracy"] for row in found.values()]
            apart = [row["accuracy"] - by[1, seed]["accuracy"] for seed, row in found.items()]
            spread = f"{statistics.mean(apart):+.3f} {deviation(apart)}" if world > 1 else ""
            shown = f"{statistics.mean(values):.3f} {deviation(values)}"
            lines.append(f"| {model} | {world} | {next(iter(found.values()))['micro_batch']} | {shown} | {spread} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs by split and class")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="to go on with another piece")
    parser.add_argument("--out", type=Path, help="JSON lines are appended, and the table is of all in it")
    arguments = parser.parse_args()
    need_shards(arguments.images, arguments.work, "64")
    rows = read_rows(arguments.out)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for model in arguments.models:
            for world in WORLDS:
                rows.append(run(arguments, model, world, seed))
                add_row(arguments.out, rows[-1])
    print(table(rows))


if __name__ == "__main__":
    main()
