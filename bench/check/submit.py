"""Seconds that submit.py takes before sbatch: with nothing remembered, and when nothing has changed.

python bench/check/submit.py [--rounds N]        # prints a table; about a minute a round

`submit.py --dry-run` does everything but write the directory and call sbatch. SLURM's commands are recorded answers
(tests/wrong_sweeps.py), which come at once: add what yours take. As the measure of what is possible stands beside it,
in the same turns, the bare import of torch and timm, without which no model can be built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from wrong_sweeps import MODEL, make_place, make_site  # noqa: E402

_BARE = [sys.executable, "-c", "import torch, timm"]
_PUBLISHED = "models--timm--test_resnet.r160_in1k"  # as the hub's client lays it out


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as temp:
        folder = Path(temp)
        for name in ("site", "place"):
            (folder / name).mkdir()
        site, place = make_site(folder / "site"), make_place(folder / "place")
        _put_weights(folder / "hub")
        figures: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for name, measured in _round(site, place, folder).items():
                figures.setdefault(name, []).append(measured)
    print(f"| median of {rounds} rounds | wall, s (range) | CPU, s |\n|---|---|---|")
    for name, runs in figures.items():
        walls, cpus = zip(*runs, strict=True)
        print(f"| {name} | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | "
              f"{statistics.median(cpus):.2f} |")  # fmt: skip


def _round(site: Path, place: Path, folder: Path) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each measurement."""
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    environ = {**os.environ, "PATH": f"{site}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(cache),
               "XDG_CONFIG_HOME": str(folder / "config"), "HF_HOME": str(folder / "hub")}  # fmt: skip
    submit = [sys.executable, str(ROOT / "launch" / "submit.py"), "sweep.yaml", "--dry-run"]
    weights = [*submit, "--set", "model.timm_image.pretrained=auto"]
    demo = [sys.executable, str(ROOT / "launch" / "submit.py"), str(ROOT / "launch" / "demo" / "sweep.yaml"),
            "--dry-run"]  # fmt: skip
    large = [*submit, "--set", f"{MODEL}={{choice: [resnet50, convnext_tiny, vit_base_patch16_224, resnet152]}}"]
    commands = {
        "import torch, timm": _BARE,
        "one kind of model, nothing remembered": submit,
        "the same again": submit,
        "and its weights, in the cache of the hub, not in the manifest": weights,
        "the same again ": weights,
        "the demo: 6 kinds, nothing remembered": demo,
        "four large models, nothing remembered": large,
        "the same again  ": large,
    }
    return {name: _measure(command, place, environ) for name, command in commands.items()}


def _measure(command: list[str], place: Path, environ: dict[str, str]) -> tuple[float, float]:
    before, start = os.times(), time.monotonic()
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=300, check=False)
    wall, after = time.monotonic() - start, os.times()
    assert done.returncode == 0, done.stderr
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def _put_weights(home: Path) -> None:
    """A file where timm looks for test_resnet's weights; nothing reads it here."""
    repository = home / "hub" / _PUBLISHED
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")


if __name__ == "__main__":
    main()
