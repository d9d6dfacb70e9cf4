"""Seconds until the first update of a compiled trial: with nothing there, a sweep's archive, the node's own cache.

python bench/compile/first_step.py DATA [--models test_vit resnet18] [--rounds 3] [--out FILE.jsonl]

DATA is what launch/prepare.py made. Each measurement is a new process and a new directory for the node's cache: `cold`
with an empty directory of the sweep, `archive` as a second node finds it, `node` as a second trial on the same node;
`plain` without env.compile. Counted is the first update alone, to the end of its optimiser's step; opening is shown
beside it, since that is where an archive is unpacked. In turns; medians; ratios to cold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("cold", "archive", "node", "plain")
DEADLINE_S = 450


def measure(model, size, batch, data, shared, way):
    """In a process of its own: seconds to open, of the first update, of the next five's mean."""
    import torch

    from hpo.trial import Training
    from hpo.trial.compute import Step
    from hpo.trialconfig import TrialConfig

    keys = {
        "model.timm_image.checkpoint_name": model, "model.timm_image.pretrained": "false", "env.accelerator": "auto",
        "model.timm_image.image_size": size, "env.batch_size": batch, "env.compile": way != "plain",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Training(TrialConfig.from_flat(keys), data, Path(folder), compiled=shared) as training:
            opened = time.perf_counter() - began
            compute, batches = training._compute, training._loader.training(training._augmentation.at(1))
            compute.train()
            times = []
            for _, batch in zip(range(6), batches, strict=False):
                began = time.perf_counter()
                compute.update(batch, Step(1e-3)).item()
                times.append(time.perf_counter() - began)
            if training._compiled:
                training._compiled.publish()
        return {"open_s": opened, "first_s": times[0], "next_s": statistics.mean(times[1:]), "torch": torch.__version__}


def start(arguments, model, shared, way, disk):
    command = [sys.executable, __file__, str(arguments.data), "--one", model, way, str(shared)]
    command += ["--size", str(arguments.size), "--batch", str(arguments.batch)]
    environ = {**os.environ, "SLURMTUNE_LOCAL_DIRS": str(disk)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rounds(arguments, model):
    """Each round: its own sweep directory, two nodes' disks."""
    found = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            shared, disks = Path(folder) / "compiled", [Path(folder) / name for name in ("one", "two")]
            for disk in disks:
                disk.mkdir()
            # The last user of a node's directory removes it; a trial beside it, as in a sweep, keeps it.
            places = {"cold": disks[0], "archive": disks[1], "node": disks[1], "plain": disks[0]}
            os.environ["SLURMTUNE_SUPERVISED"] = "1"
            for way in WAYS:
                row = {"model": model, "round": number, "way": way, "load": os.getloadavg()[0]}
                row |= start(arguments, model, shared, way, places[way])
                row["archives_mb"] = sum(path.stat().st_size for path in shared.rglob("*.tar.gz")) / 1e6
                print(json.dumps(row), file=sys.stderr)
                found.append(row)
    return found


def table(rows):
    lines = [
        "| model | way | opening, s | first update, s | ratio to cold | an update after it, s |",
        "|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        middle = {
            way: {
                key: statistics.median(row[key] for row in rows if (row["model"], row["way"]) == (model, way))
                for key in ("open_s", "first_s", "next_s")
            }
            for way in WAYS
        }
        for way, values in middle.items():
            ratio = values["first_s"] / middle["cold"]["first_s"]
            shown = f"{values['open_s']:.2f} | {values['first_s']:.2f} | {ratio:.3f} | {values['next_s']:.3f}"
            lines.append(f"| {model} | {way} | {shown} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["test_vit", "resnet18"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "WAY", "SHARED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        model, way, shared = arguments.one
        print(json.dumps(measure(model, arguments.size, arguments.batch, arguments.data, Path(shared), way)))
        return
    rows = [row for model in arguments.models for row in rounds(arguments, model)]
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
