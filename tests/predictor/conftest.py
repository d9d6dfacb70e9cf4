"""Real photographs as tables, and one small fit that many tests look at. No network: models start from scratch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from hpo import MultiModalPredictor

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("hat", "shoes", "pants")
SMALL = {  # seconds to train
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "optimization.learning_rate": 5e-3,
    "optimization.max_epochs": "4",
    "env.batch_size": 16,
    "env.num_workers": 1,
}


def extract(folder, per_class=24, classes=CLASSES):
    """folder/CLASS/*.jpg from the bundled photographs, as a table of paths and labels."""
    rows = []
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(1, per_class + 1):
                path = folder / name / f"{i:03d}.jpg"
                path.write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
                rows.append((str(path), name))
    return pd.DataFrame(rows, columns=["image", "label"])


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """72 photographs of three classes; nobody changes them."""
    return extract(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def split(photos):
    """Two thirds to train, a third to test."""
    test = photos.iloc[::3]
    return photos.drop(test.index), test


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory: that is where runs/ goes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, split):
    """One trial of four epochs, three of them kept."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        predictor = MultiModalPredictor(label="label", path=folder / "run", verbosity=0)
        assert predictor.fit(split[0], hyperparameters=SMALL, holdout_frac=0.25) is predictor
    return predictor


@pytest.fixture
def small():
    return dict(SMALL)
