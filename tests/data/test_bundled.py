"""The bundled photographs: what they are, and that any number of processes get them once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hpo.data.bundled import ARCHIVE, ensure_demo_data
from hpo.data.check import check
from hpo.data.plan import Recipe
from hpo.data.read import describe, open_split
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_archive_is_small_and_licensed() -> None:
    assert ARCHIVE.stat().st_size <= 7_500_000
    assert "CC0 1.0 Universal" in (ARCHIVE.parent / "LICENSE-data").read_text()
    assert "clothing-dataset-small" in (ARCHIVE.parent / "README.md").read_text()
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert len(archive.namelist()) == 3781


def test_it_becomes_raw_shards_once(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "clothing"
    old, new = (tmp_path / "deep" / f".clothing.{name}.building" for name in ("old", "new"))
    for left in (old, new):  # by builds that were killed
        left.mkdir(parents=True)
        (left / "part").write_text("x")
    yesterday = time.time() - 24 * 3600
    os.utime(old, (yesterday, yesterday))
    assert ensure_demo_data(directory) == directory
    summary = describe(directory)
    assert summary.splits == {"train": 3068, "validation": 341, "test": 372}
    assert (summary.encoding, summary.image_size, summary.num_classes) == ("raw", (64, 64), 10)
    assert (summary.skipped, summary.duplicates_across_splits) == (0, 0)
    assert check(directory, 1) == []
    before = (directory / "manifest.json").stat()
    assert ensure_demo_data(directory) == directory
    assert (directory / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in directory.parent.iterdir() if path != new] == ["clothing"]
    assert new.exists()  # it may be in work


def test_many_at_once_agree(tmp_path: Path) -> None:
    directory = tmp_path / "clothing"
    directory.mkdir()  # empty is as good as absent
    code = "import sys, pathlib; from hpo.data.bundled import *; print(ensure_demo_data(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(directory)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{directory}\n"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["clothing"]
    assert check(directory, 1) == []
    assert len(open_split(directory, "test")) == 372


def test_other_things_are_not_touched(tmp_path: Path, split_folder: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="holds something else"):
        ensure_demo_data(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.tex"]
    prepare(find_source(split_folder), tmp_path / "mine", Recipe())
    with pytest.raises(UsageError, match="holds other data"):
        ensure_demo_data(tmp_path / "mine")


def test_a_missing_archive_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.data.bundled.ARCHIVE", tmp_path / "clothing.zip")
    with pytest.raises(DataError, match="are missing; install slurmtune again"):
        ensure_demo_data(tmp_path / "clothing")
