"""One training undisturbed and one that is killed at random moments: the losses of both, for docs/reliability.md.

    python tests/faults/curve.py --out DIR --kills 3       # writes tests/faults/results/curve.json

All that has a memory or a die is on: momentum, schedule, moving average, mixup, erasing, dropout, order, crops.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from small_sweeps import make_shards  # noqa: E402

CURVE = Path(__file__).parent / "results" / "curve.json"
KEYS = {
    "optim.optim_type": "adamw",
    "optim.lr": 3e-3,
    "optim.max_epochs": 12,
    "optim.ema_decay": 0.9,
    "optim.lr_schedule": "cosine_decay",
    "model.timm_image.checkpoint_name": "test_vit",
    "model.timm_image.pretrained": "false",
    "model.timm_image.drop_rate": 0.2,
    "data.mixup.turn_on": "true",
    "data.random_erasing.prob": 0.3,
    "env.batch_size": 16,
    "env.accelerator": "cpu",
}
_TIMES = ("seconds", "images_per_second", "checkpoint")


def train(data, folder, kills, rng):
    """(metrics by epoch, epochs completed at each kill): the training in `folder`, killed so many times."""
    metrics, killed = {}, []
    while True:
        settings = [word for name, value in KEYS.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "hpo.trial", "--data", str(data), "--out", str(folder), "--json", *settings]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        more = rng.randint(1, 3)
        for line in process.stdout:
            row = json.loads(line)
            if "train_loss" not in row:
                continue
            metrics[row["epoch"]] = {name: value for name, value in row.items() if name not in _TIMES}
            more -= 1
            if not more and len(killed) < kills:
                time.sleep(rng.uniform(0, 1) * row["seconds"])
                process.kill()
                killed.append(row["epoch"])
                break
        process.stdout.close()
        if process.wait() == 0:
            return metrics, killed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    data = out / "data" if (out / "data").exists() else make_shards(out, per_class=40)
    undisturbed = out / "undisturbed.json"
    if not undisturbed.exists():
        undisturbed.write_text(json.dumps(train(data, out / "undisturbed", 0, random.Random(0))[0]))
        print("undisturbed done; run it again for the other", flush=True)
        return
    whole = {int(epoch): row for epoch, row in json.loads(undisturbed.read_text()).items()}
    folder = out / f"broken-{arguments.seed}"
    broken, killed = train(data, folder, arguments.kills, random.Random(arguments.seed))
    last = f"checkpoint/last-{KEYS['optim.max_epochs']:04d}"
    names = ("weights.safetensors", "meta.json")
    equal = all((folder / last / n).read_bytes() == (out / "undisturbed" / last / n).read_bytes() for n in names)
    epochs = sorted(whole)
    CURVE.parent.mkdir(exist_ok=True)
    CURVE.write_text(
        json.dumps(
            {
                "epochs": epochs,
                "unbroken": [whole[epoch]["train_loss"] for epoch in epochs],
                "broken": [broken.get(epoch, {}).get("train_loss") for epoch in epochs],
                "kills": killed,
                "same_metrics": all(broken[epoch] == whole[epoch] for epoch in broken),
                "same_weights": equal,
            }
        )
        + "\n"
    )
    print(CURVE.read_text())


if __name__ == "__main__":
    main()
