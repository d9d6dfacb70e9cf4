"""Real photographs for the tests of the data room: some of the bundled ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.data.bundled import ARCHIVE

CLASSES = ("hat", "shoes", "t-shirt")


@pytest.fixture(scope="session")
def photographs() -> dict[str, list[bytes]]:
    """Twelve JPEG files of each of three classes."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return {name: [archive.read(f"train/{name}/{i:03d}.jpg") for i in range(1, 13)] for name in CLASSES}


@pytest.fixture
def class_folder(tmp_path: Path, photographs: dict[str, list[bytes]]) -> Path:
    """36 photographs as CLASS/nn.jpg."""
    root = tmp_path / "images"
    for name, files in photographs.items():
        (root / name).mkdir(parents=True)
        for i, data in enumerate(files):
            (root / name / f"{i:02d}.jpg").write_bytes(data)
    return root


@pytest.fixture
def split_folder(tmp_path: Path, photographs: dict[str, list[bytes]]) -> Path:
    """The same as train/CLASS (8 each), val/CLASS (2) and test/CLASS (2)."""
    root = tmp_path / "split images"
    for name, files in photographs.items():
        for i, data in enumerate(files):
            folder = root / ("train" if i < 8 else "val" if i < 10 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:02d}.jpg").write_bytes(data)
    return root


@pytest.fixture
def write_table(tmp_path: Path, class_folder: Path) -> Callable[..., Path]:
    """Writes a CSV file beside the images; rows of (image, label, ...) below the given header."""

    def write(header: str, *rows: str, name: str = "table.csv") -> Path:
        path = class_folder / name
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write
