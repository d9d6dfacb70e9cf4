"""Every command of the README runs as it stands, in an empty directory with photographs, on the real SLURM."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from readme import BLOCKS, COMMANDS

from hpo.records import SweepState, read_events

ROOT = Path(__file__).resolve().parents[2]
RUN = "runs/my-sweep-20261124-7f3a"  # the README's example of a directory that submit.py printed


def make_photos(folder):
    """photos/CLASS/*.jpg and labels.csv from the bundled photographs."""
    with (
        zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive,
        (folder / "labels.csv").open("w") as table,
    ):
        rows = csv.writer(table)
        rows.writerow(["image", "label"])
        for name in ("hat", "shoes", "pants", "dress"):
            (folder / "photos" / name).mkdir(parents=True)
            for i in range(1, 31):
                path = f"photos/{name}/{i:03d}.jpg"
                (folder / path).write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
                rows.writerow([path, name])


def job_of(text):
    return re.search(r"job\s+(\d+)", text).group(1)


def test_every_command(slurm, shared_tmp):
    for name in ("launch", "slurm", "hpo"):
        (shared_tmp / name).symlink_to(ROOT / name)
    make_photos(shared_tmp)
    [sweep] = [block for kind, block in BLOCKS if kind == "yaml" and block.startswith("# my-sweep.yaml")]
    (shared_tmp / "my-sweep.yaml").write_text(sweep)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = None
    for line in COMMANDS:
        if line in ("make demo", "make test"):
            continue  # tests of their own
        where = ROOT if line.startswith("make") else shared_tmp
        command = line.replace(RUN, str(run)) if run else line
        done = subprocess.run(
            ["bash", "-c", command], cwd=where, env=environ, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if "--partition" not in line or "--dry-run" in line:
            continue
        job = job_of(done.stdout)
        if "my-sweep.yaml" in line:
            assert slurm.wait(job, timeout=300) == "COMPLETED", line
            run = run or next((shared_tmp / "runs").glob("my-sweep-*")).relative_to(shared_tmp)
        else:  # the bundled demo, whole, has a test of its own: here it only has to get going
            directory = Path(done.stdout.splitlines()[1].split()[1])
            end = time.monotonic() + 600
            while not SweepState(read_events(directory / "journal.jsonl")).trials:
                assert time.monotonic() < end, done.stderr
                time.sleep(0.5)
            slurm.run("scancel", job)
            slurm.wait(job)
