"""Prices real sweeps on this machine, then runs them: one JSON line a sweep with what was foretold and what it took.

python bench/price/run.py --work FOLDER --out bench/price/results.jsonl

Each sweep's kinds of trial are measured right before it runs, so that both meet about the same machine. A sweep that
is in the results already is left out. Kept besides wall time: CPU seconds of all processes of the sweep, and those of
its trials as the pace foretells them for the epochs that it had, which on a busy machine say more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from bench.rows import add_row, read_rows  # noqa: E402
from hpo.config import load_sweep  # noqa: E402
from hpo.price.measured import Measured, Place  # noqa: E402
from hpo.records import SweepState, read_events  # noqa: E402

MODEL = "model.timm_image.checkpoint_name"
BASE = """\
name: priced
data: data
hyperparameters:
  model.timm_image.checkpoint_name: {choice: [test_resnet, test_vit, test_efficientnet]}
  model.timm_image.pretrained: false
  model.timm_image.train_transforms: [random_horizontal_flip]
  optimization.learning_rate: {loguniform: [3e-4, 3e-2], default: 1e-3}
  optimization.weight_decay: {loguniform: [1e-5, 1e-1], default: 1e-3}
  optimization.max_epochs: 9
  env.batch_size: 32
hyperparameter_tune_kwargs: {num_trials: 9, num_to_keep: 1, resources_per_trial: {num_cpus: 1}}
"""
SWEEPS: dict[str, list[str]] = {  # name -> what is put over BASE
    "asha": [],
    "asha, 16 trials": ["num_trials=16", "seed=1"],
    "promotion": ["scheduler_init_args={type: promotion}", "seed=2"],
    "fifo": ["scheduler=FIFO", "num_trials=6", "optim.max_epochs=5", "seed=3"],
    "random": ["searcher=random", "seed=4"],
    "one model, by size": [f"{MODEL}=test_vit", "model.timm_image.image_size={choice: [32, 64]}", "seed=5"],
    "searched epochs": ["optim.max_epochs={randint: [4, 13]}", "seed=6"],
    "reduction 2": ["scheduler_init_args={reduction_factor: 2}", "num_trials=8", "seed=7"],
    "larger batches": ["env.batch_size={choice: [16, 64]}", "seed=8"],
    "two optimisers": ["optim.optim_type={choice: [adamw, sgd]}", "optim.max_epochs=6", "seed=9"],
    "27 epochs": ["num_trials=16", "optim.max_epochs=27", "seed=10"],
    "27 epochs, promotion": [
        "num_trials=24",
        "optim.max_epochs=27",
        "scheduler_init_args={type: promotion}",
        "seed=11",
    ],
    "27 epochs, random, augmented": [
        "searcher=random",
        "optim.max_epochs=27",
        "model.timm_image.train_transforms=[random_resize_crop, random_horizontal_flip, color_jitter]",
        "seed=12",
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="takes data, sweeps and caches")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(options.work / "cache")
    sweep = _prepare(options.work)
    done = {row["name"] for row in read_rows(options.out)}
    for name, overrides in SWEEPS.items():
        if name in done:
            continue
        line = {"name": name, "overrides": overrides, **_run(sweep, overrides, options.work)}
        add_row(options.out, line)
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}: {line['wall_s']:.0f} s\n")
    return 0


def _prepare(work: Path) -> Path:
    """80 photographs of each of 10 classes, at 32 pixels, and the sweep file."""
    sweep = work / "priced.yaml"
    sweep.write_text(BASE)
    if not (work / "data").exists():
        with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
            names = [name for name in archive.namelist() if name.startswith("train/") and name.endswith(".jpg")]
            for name in names:
                if int(Path(name).stem) <= 80:
                    path = work / "photos" / Path(name).relative_to("train")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))
        command = [sys.executable, ROOT / "launch" / "prepare.py", work / "photos", "--out", work / "data",
                   "--encoding", "raw", "--size", "32"]  # fmt: skip
        subprocess.run([str(word) for word in command], check=True)
    return sweep


def _run(sweep: Path, overrides: list[str], work: Path) -> dict[str, Any]:
    config = load_sweep(sweep, overrides, work / "runs")
    cpus = len(os.sched_getaffinity(0))
    measured = Measured(config, Place(None, 1, cpus))
    measured.paces = [None] * len(measured.paces)  # anew: the machine may be busier than a while ago
    load = os.getloadavg()[0]
    measured.measure(lambda text: sys.stderr.write(f"{text}\n"))
    run = work / "runs" / f"{int(time.time())}"
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(sweep), "--cluster", "local", "--no-check",
               "--run-dir", str(run), *(word for override in overrides for word in ("--set", override))]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cpu_s = _watch(process)
    wall_s = time.monotonic() - began
    events = read_events(run / "journal.jsonl")
    kinds = [{"case": case, "pace": pace and asdict(pace)} for case, pace in
             zip(measured.cases, measured.paces, strict=True)]  # fmt: skip
    about = {"at": events[0]["t"], "paces": "measured", "workers": cpus, "load": [load, os.getloadavg()[0]]}
    resolved = {**config.to_json(), "data": config.data.name}
    return {**about, "wall_s": wall_s, "cpu_s": cpu_s, "kinds": kinds, "resolved": resolved,
            **summarise(events, SweepState(events))}  # fmt: skip


def _watch(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of all descendants until it ends, as last seen of each."""
    seen: dict[tuple[int, float], float] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for child in [root, *root.children(recursive=True)]:
                times = child.cpu_times()
                seen[child.pid, child.create_time()] = times.user + times.system
        except psutil.Error:
            continue
        time.sleep(0.5)
    return sum(seen.values())


def summarise(events: list[dict[str, Any]], state: SweepState) -> dict[str, Any]:
    """What a sweep took, from its journal."""
    first = next((event["t"] for event in events if event["type"] == "started"), None)
    reports = [event for event in events if event["type"] == "reported"]
    opened = [event["opened"] for event in reports if event.get("opened") is not None]
    trials = [
        {
            "params": trial.params,
            "epochs": trial.epochs,
            "state": trial.state,
            "seconds": [metrics["seconds"] for metrics in trial.first.values()],
        }
        for trial in state.trials.values()
    ]
    start = first and first - events[0]["t"]
    return {"start_s": start, "work_s": first and reports[-1]["t"] - first, "opened": opened, "trials": trials}


if __name__ == "__main__":
    sys.exit(main())
