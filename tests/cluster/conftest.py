"""Small real sweeps: a few bundled photographs, timm's test models, seconds a trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hpo.records import SweepState, read_events

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
name: small
data: {data}
hyperparameters:
  model.timm_image.checkpoint_name: {{choice: [test_vit, test_resnet]}}
  model.timm_image.pretrained: false
  optimization.learning_rate: {{loguniform: [1e-4, 3e-2], default: 1e-3}}
  optimization.max_epochs: {epochs}
  env.batch_size: 32
hyperparameter_tune_kwargs: {{num_trials: {trials}, num_to_keep: 1, resources_per_trial: {{num_cpus: 1}}}}
"""


def extract_photos(folder, per_class=16, classes=("hat", "shoes", "pants", "dress")):
    """folder/CLASS/*.jpg from the bundled photographs."""
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(1, per_class + 1):
                (folder / name / f"{i:03d}.jpg").write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
    return folder


@pytest.fixture
def write_sweep():
    """write_sweep(folder, trials, epochs) -> sweep.yaml in it, with real shards beside it."""

    def write(folder, trials=5, epochs=3, per_class=16):
        photos = extract_photos(folder / "photos", per_class)
        command = [sys.executable, ROOT / "launch" / "prepare.py", photos, "--out", folder / "data"]
        subprocess.run([*command, "--encoding", "raw", "--size", "32"], check=True, capture_output=True, timeout=120)
        path = folder / "small.yaml"
        path.write_text(SWEEP.format(data="data", epochs=epochs, trials=trials))
        return path

    return write


@pytest.fixture
def submit():
    """submit(*arguments) -> the finished launch/submit.py."""

    def run(*arguments, timeout=240, **options):
        command = [sys.executable, ROOT / "launch" / "submit.py", *arguments]
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    return run


@pytest.fixture
def results():
    """results(directory) -> what launch/results.py --json says."""

    def read(directory):
        command = [sys.executable, ROOT / "launch" / "results.py", directory, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
        return json.loads(done.stdout)

    return read


@pytest.fixture
def wait_for_event():
    """wait_for_event(directory, condition on SweepState) -> that state."""

    def wait(directory, condition, timeout=120):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            state = SweepState(read_events(directory / "journal.jsonl"))
            if condition(state):
                return state
            time.sleep(0.1)
        raise AssertionError(f"waited {timeout} s in vain; {state.events} events")

    return wait
