"""Seconds of an epoch, with training, evaluation and checkpoint: hpo.trial against a plain loop of timm's parts.

    python bench/epoch/compare.py --images PHOTOGRAPHS --work /tmp/bench [--seeds 5] [--out FILE.jsonl]

Same photographs (64 pixels, JPEG), model, batch, optimiser, schedule by update, clipping, crop and flip, number of
threads; each run is a process of its own, the sides in turns. The loop calls create_model, create_loader,
create_optimizer_v2, create_scheduler_v2, dispatch_clip_grad, AverageMeter, accuracy and CheckpointSaver as timm's
train.py does without --amp (its scaler is for fp16 on a GPU), with --sched-on-updates and --clip-grad 1. Its crops are
PIL's. A run's first epoch is told apart: it starts workers. Memory is PSS of the process and its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.data.photographs import make_folder, need_shards
from bench.data.pipelines import cpu_seconds, memory_mib
from bench.rows import add_row, read_rows

SIDES, CHANGES = ("slurmtune", "timm"), ("channels_last", "fused")
SIZE, BATCH, RATE, DECAY, WARMUP, SCALE = 64, 64, 5e-3, 1e-3, 0.1, (0.35, 1.0)
DEADLINE_S = 460


def leave_out(change):
    """Undoes one of the changes that made an epoch faster."""
    from hpo.trial import compute, optimizer

    if change == "channels_last":
        compute.is_convolutional = lambda model: False
    if change == "fused":
        optimizer._can_be_fused = lambda name: False


class Peak:
    """The most memory that this process and its children held, looked at twice a second."""

    def __init__(self):
        self.mib, self._ended = 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not self._ended.wait(0.5):
            self.mib = max(self.mib, memory_mib())

    def end(self):
        self._ended.set()
        return self.mib


def slurmtune(arguments, folder):
    from hpo.trial import Training
    from hpo.trialconfig import TrialConfig

    leave_out(arguments.without)
    keys = {
        "model.timm_image.checkpoint_name": arguments.model, "model.timm_image.pretrained": "false",
        "model.timm_image.image_size": SIZE, "model.timm_image.crop_scale": SCALE[0], "env.batch_size": BATCH,
        "env.accelerator": "cpu", "env.num_workers": arguments.workers, "optim.lr": RATE, "optim.weight_decay": DECAY,
        "optim.max_epochs": arguments.epochs, "optim.warmup_steps": WARMUP, "optim.gradient_clip_val": 1.0,
    }  # fmt: skip
    config = TrialConfig.from_flat(keys, seed=arguments.seed)
    with Training(config, arguments.work / "shards-64", folder) as training:
        yield "opened"
        while not training.finished:
            yield training.run_epoch()["val_accuracy"]


def timm_loop(arguments, folder):
    """train.py's train_one_epoch and validate, without what its options switch on."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, CheckpointSaver, accuracy, dispatch_clip_grad, random_seed

    random_seed(arguments.seed, 0)
    device = torch.device("cpu")
    root = make_folder(arguments.work, "64").parent
    model = create_model(arguments.model, num_classes=10)
    data = resolve_data_config({"img_size": SIZE}, model=model)
    common = {
        "input_size": (3, SIZE, SIZE), "batch_size": BATCH, "mean": data["mean"], "std": data["std"], "device": device,
        "num_workers": arguments.workers, "interpolation": "bilinear", "persistent_workers": True,
    }  # fmt: skip
    train = create_loader(
        create_dataset("", str(root / "train")), is_training=True, scale=SCALE, hflip=0.5, color_jitter=None, **common
    )
    judge = create_loader(create_dataset("", str(root / "validation")), is_training=False, crop_pct=1.0, **common)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    updates = len(train) * arguments.epochs
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=(1 - WARMUP) * arguments.epochs, warmup_epochs=WARMUP * arguments.epochs,
        warmup_lr=RATE / (WARMUP * updates), warmup_prefix=True, step_on_epochs=False, updates_per_epoch=len(train),
    )  # fmt: skip
    criterion, saver = (
        torch.nn.CrossEntropyLoss(),
        CheckpointSaver(
            model=model, optimizer=optimizer, checkpoint_dir=str(folder), recovery_dir=str(folder), max_history=3
        ),
    )
    yield "opened"
    for epoch in range(arguments.epochs):
        losses, number = AverageMeter(), epoch * len(train)
        model.train()
        for inputs, targets in train:
            loss = criterion(model(inputs), targets)
            loss.backward()
            dispatch_clip_grad(model.parameters(), value=1.0, mode="norm")
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), inputs.size(0))
            number += 1
            scheduler.step_update(num_updates=number, metric=losses.avg)
        top, judged = AverageMeter(), AverageMeter()
        model.eval()
        with torch.inference_mode():
            for inputs, targets in judge:
                outputs = model(inputs)
                judged.update(criterion(outputs, targets).item(), inputs.size(0))
                top.update(accuracy(outputs, targets)[0].item(), inputs.size(0))
        saver.save_checkpoint(epoch, metric=top.avg)
        yield top.avg / 100


def measure(arguments):
    """One JSON line."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        side = {"slurmtune": slurmtune, "timm": timm_loop}[arguments.measure](arguments, Path(folder))
        next(side)
        peak, walls, cpus, accuracies = Peak(), [], [], []
        while True:
            wall, cpu = time.perf_counter(), cpu_seconds()
            accuracy = next(side, None)
            if accuracy is None:
                break
            walls.append(time.perf_counter() - wall)
            cpus.append(cpu_seconds() - cpu)
            accuracies.append(accuracy)
    side = f"without {arguments.without}" if arguments.without else arguments.measure
    row = {"side": side, "seed": arguments.seed, "model": arguments.model, "wall_s": walls, "cpu_s": cpus}
    print(json.dumps({**row, "accuracy": accuracies, "memory_mib": peak.end(), "load": os.getloadavg()[0]}))
    sys.stdout.flush()
    os._exit(0)


def run(arguments, side, seed, without=None):
    own = ["--without", without] if without else []
    own += ["--measure", side, "--work", str(arguments.work), "--seed", str(seed), "--model", arguments.model]
    own += ["--epochs", str(arguments.epochs), "--workers", str(arguments.workers)]
    command = [sys.executable, __file__, *own]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode or not done.stdout:
        raise SystemExit(f"{side}, seed {seed}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows):
    """Medians over runs of the mean of all epochs but the first; the ratio by pairs of seeds."""

    def later(row, key):
        return statistics.mean(row[key][1:])

    sides = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    lines = ["| | wall s an epoch | CPU s an epoch | first epoch, wall s | accuracy, mean (each seed) | most MiB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for side, found in sides.items():
        last = [row["accuracy"][-1] for row in found]
        each = ", ".join(f"{value:.3f}" for value in last)
        shown = (statistics.median(later(run, key) for run in found) for key in ("wall_s", "cpu_s"))
        shown = [*(f"{value:.2f}" for value in shown), f"{statistics.median(r['wall_s'][0] for r in found):.2f}"]
        memory = statistics.median(row["memory_mib"] for row in found)
        lines.append(f"| {side} | {' | '.join(shown)} | {statistics.mean(last):.4f} ({each}) | {memory:.0f} |")
    for key, word in (("wall_s", "wall"), ("cpu_s", "CPU")):
        pairs = zip(sides["slurmtune"], sides["timm"], strict=True)
        ratios = [later(mine, key) / later(theirs, key) for mine, theirs in pairs]
        lines.append(
            f"{word} time, slurmtune / timm: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def parts(arguments):
    """CPU and wall seconds of an epoch with each change left out, in turns."""
    found = {change: [] for change in (None, *CHANGES)}
    for seed in range(arguments.seeds):
        for change, runs in found.items():
            runs.append(run(arguments, "slurmtune", seed, change))
    for change, runs in found.items():
        wall, cpu = (statistics.median(statistics.mean(one[key][1:]) for one in runs) for key in ("wall_s", "cpu_s"))
        print(f"{f'without {change}' if change else 'as it is':24} {wall:6.2f} s {cpu:6.2f} CPU s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs by split and class")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="to go on with another piece")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON lines are appended, and the table is of all in it")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--parts", action="store_true", help="ours alone, with each of the changes left out")
    parser.add_argument("--without", choices=CHANGES, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
    need_shards(arguments.images, arguments.work, "64")
    rows = read_rows(arguments.out)
    make_folder(arguments.work, "64")
    if arguments.parts:
        parts(arguments)
        return
    for seed in range(arguments.first_seed, arguments.first_seed + (0 if arguments.table else arguments.seeds)):
        for side in SIDES if seed % 2 else SIDES[::-1]:
            rows.append(run(arguments, side, seed))
            add_row(arguments.out, rows[-1])
    print(table(rows))


if __name__ == "__main__":
    main()
