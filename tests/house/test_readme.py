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

import pytest
from ruamel.yaml import YAML

from hpo.records import SweepState, read_events
from hpo.space import parse_space

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
RUN = "runs/my-sweep-20261124-7f3a"  # the README's example of a directory that submit.py printed


def test_make_test_is_what_runs_these_tests():
    assert "make test" in COMMANDS
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m pytest" in done.stdout


@pytest.mark.ray
def test_make_demo(tmp_path, monkeypatch):
    """The demo, whole: at least 12 trials, ASHA and the model at work, the winner clearly above the default."""
    assert "make demo" in COMMANDS
    monkeypatch.setenv("SLURMTUNE_RUNS", str(tmp_path / "runs"))
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "runs").glob("clothing-demo-*")
    state = SweepState(read_events(run / "journal.jsonl"))
    trials = list(state.trials.values())
    assert len(trials) >= 12
    assert sum(trial.state == "stopped" for trial in trials) >= 3
    assert len({trial.params["model.timm_image.checkpoint_name"] for trial in trials}) >= 2
    assert sum(trial.origin == "model" for trial in trials) >= 3
    default, winner = state.trials["0000"], state.incumbent()
    assert winner.best[1] > default.best[1] + 0.05
    assert f"default {default.id}" in done.stdout
    assert f"best {winner.id}" in done.stdout
    assert (run / "report.html").is_file()
    assert str(run / "report.html") in done.stderr


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


@pytest.mark.slurm
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


def test_every_yaml_block_is_valid():
    for kind, block in BLOCKS:
        if kind != "yaml":
            continue
        document = YAML(typ="safe").load(block)
        optimisers = {"optimization.optim_type": {"choice": ["adamw", "sgd", "lamb"]}}
        parse_space(document.get("hyperparameters", {**optimisers, **document}))


def test_every_key_and_exit_code_is_in_the_readme():
    from hpo import errors
    from hpo.metrics import REPORTED
    from hpo.trialconfig import known_keys

    for key in known_keys():
        name = {"lr": "learning_rate"}.get(key.rpartition(".")[2], key.rpartition(".")[2])
        assert f"`{name}`" in README, key
    for metric in {name for names in REPORTED.values() for name in names}:
        assert f"`{metric}`" in README
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "exit_code")}
    for code in codes | {0, 75, 130}:
        assert f"| {code} |" in README
