"""Data for the tests of the trial room: some of the bundled photographs, raw and JPEG, with classes and numbers."""

from __future__ import annotations

import gc
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpo.data.bundled import ARCHIVE, ensure_demo_data
from hpo.data.plan import Recipe
from hpo.data.sources import SourceOptions, find_source
from hpo.data.write import prepare
from hpo.trialconfig import TrialConfig

CLASSES = ("hat", "pants", "shoes", "t-shirt")
TRAIN, VALIDATION = 20, 8  # photographs of each class

# Small, from scratch, on the CPU: what a test does not say otherwise.
QUICK: dict[str, Any] = {
    "model.timm_image.checkpoint_name": "test_efficientnet",
    "model.timm_image.pretrained": "false",
    "optim.lr": 5e-3,
    "optim.max_epochs": 2,
    "env.batch_size": 32,
    "env.accelerator": "cpu",
    "env.num_workers": 1,
}


@pytest.fixture(scope="session", autouse=True)
def _freeze_libraries() -> None:
    """Each closed Training collects garbage: torch and timm need not be looked through a hundred times."""
    import hpo.trial.training  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMTUNE_CPUS", "1")  # sums to the bit depend on the number of threads


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/CLASS and validation/CLASS folders of JPEG files, 96 x 128 pixels and the like."""
    root = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(ARCHIVE) as archive:
        for split, count in (("train", TRAIN), ("validation", VALIDATION)):
            for name in CLASSES:
                (root / split / name).mkdir(parents=True)
                for number in range(1, count + 1):
                    content = archive.read(f"{split}/{name}/{number:03d}.jpg")
                    (root / split / name / f"{number:03d}.jpg").write_bytes(content)
    return root


@pytest.fixture(scope="session")
def raw_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 and 32 photographs of 4 classes, 32 x 32 pixels."""
    directory = tmp_path_factory.mktemp("shards") / "raw"
    prepare(find_source(photographs), directory, Recipe(encoding="raw", size=32))
    return directory


@pytest.fixture(scope="session")
def jpeg_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as JPEG, in their own sizes."""
    directory = tmp_path_factory.mktemp("shards") / "jpeg"
    prepare(find_source(photographs), directory, Recipe())
    return directory


@pytest.fixture(scope="session")
def brightness_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, 32 x 32 pixels, labelled with their mean brightness and redness in 0..255."""
    rows = ["image,split,brightness,redness"]
    for path in sorted(photographs.rglob("*.jpg")):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            pixels = np.asarray(image.convert("RGB"), float)
        name = path.relative_to(photographs)
        rows.append(f"{name},{name.parts[0]},{pixels.mean():.3f},{pixels[..., 0].mean():.3f}")
    table = photographs / "brightness.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = SourceOptions(("image",), ("brightness", "redness"), "split", task="regression")
    directory = tmp_path_factory.mktemp("shards") / "brightness"
    prepare(find_source(table, columns), directory, Recipe(encoding="raw", size=32))
    return directory


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundled photographs, 64 x 64 pixels: 3,068 to train, 341 to validate, 10 classes."""
    return ensure_demo_data(tmp_path_factory.mktemp("shards") / "demo")


@pytest.fixture
def configure() -> Callable[..., TrialConfig]:
    """configure({'optim.lr': 0.1}, seed=1): QUICK with other keys, and fields of TrialConfig."""

    def build(keys: dict[str, Any] | None = None, **fields: Any) -> TrialConfig:
        return TrialConfig.from_flat({**QUICK, **(keys or {})}, **fields)

    return build


@pytest.fixture(scope="session")
def table_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a table, 32 x 32 pixels: 80 to train, 32 to validate, label 'many' or 'few'.

    front: a photograph in all but each seventh row; back: in every second. pieces tells the label where it is given (in
    all but each fifth row), shade and weight tell nothing; shade has gaps, and 'violet' in validation only.
    """
    rows = ["front,back,split,label,pieces,shade,weight"]
    for number, path in enumerate(sorted(photographs.rglob("*.jpg"))):
        name = path.relative_to(photographs)
        label = "many" if number % 2 else "few"
        front, back = ("" if number % 7 == 0 else name), (name if number % 4 < 2 else "")
        pieces = "" if number % 5 == 0 else f"{(30 if label == 'many' else 5) + number % 3}"
        shade = ("", "red", "green", "violet" if name.parts[0] == "validation" else "green")[number // 2 % 4]
        rows.append(f"{front},{back},{name.parts[0]},{label},{pieces},{shade},{number % 11 + 0.5}")
    table = photographs / "table.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = ("pieces", "shade", "weight")
    types = tuple(zip(columns, ("numerical", "categorical", "numerical"), strict=True))
    options = SourceOptions(("front", "back"), ("label",), "split", columns, types)
    directory = tmp_path_factory.mktemp("shards") / "table"
    prepare(find_source(table, options), directory, Recipe(encoding="raw", size=32))
    return directory
