"""Small real sweeps: a few bundled photographs, timm's test models, seconds a trial."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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
MODEL = "model.timm_image.checkpoint_name"
PRICED = """\
data: data
hyperparameters:
  model.timm_image.checkpoint_name: {choice: [test_resnet, test_vit]}
  model.timm_image.pretrained: false
  optimization.learning_rate: {loguniform: [1e-4, 1e-1]}
  optimization.max_epochs: 9
  env.batch_size: 16
hyperparameter_tune_kwargs: {num_trials: 12, resources_per_trial: {num_cpus: 1}}
"""


def extract_photos(folder, per_class=16, classes=("hat", "shoes", "pants", "dress")):
    """folder/CLASS/*.jpg from the bundled photographs."""
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(1, per_class + 1):
                (folder / name / f"{i:03d}.jpg").write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
    return folder


def make_shards(folder, per_class=16):
    """folder/data from photographs in folder/photos."""
    photos = extract_photos(folder / "photos", per_class)
    command = [sys.executable, ROOT / "launch" / "prepare.py", photos, "--out", folder / "data"]
    subprocess.run([*command, "--encoding", "raw", "--size", "32"], check=True, capture_output=True, timeout=240)
    return folder / "data"
