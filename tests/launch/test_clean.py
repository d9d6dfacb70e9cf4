"""launch/clean.py: says first; removes only what slurmtune wrote and nothing needs; keeps what can be gone on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpo.records import Journal
from launch.clean import main, size_text
from launch.export import main as export_main

Clean = Callable[..., tuple[int, str, str]]


@pytest.fixture
def clean(call: Callable[..., tuple[int, str, str]]) -> Clean:
    return partial(call, main)


@pytest.fixture
def sweep(trained_sweep: Path, tmp_path: Path) -> Path:
    """A copy that may be cleaned; the link to its data holds."""
    return shutil.copytree(trained_sweep, tmp_path / "sweep")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def checkpoint(folder: Path) -> Path:
    """A folder with what a checkpoint holds."""
    folder.mkdir(parents=True)
    for name in ("weights.safetensors", "state.pt", "meta.json", "MANIFEST.json"):
        (folder / name).write_bytes(b"x" * 1000)
    return folder


def test_a_trial_has_the_documented_number_of_files(trained_sweep: Path) -> None:
    """num_to_keep 2, two epochs, one attempt: 5 and 2 x 4 and 2 x 3, see hpo/results/leftovers.py."""
    for trial in ("0000", "0001"):
        assert len(files(trained_sweep / "trials" / trial)) == 5 + 2 * 4 + 2 * 3


def test_without_yes_nothing_changes(sweep: Path, clean: Clean) -> None:
    before = files(sweep)
    code, output, errors = clean(sweep)
    assert code == 0
    assert "trials/0000/checkpoint/last-0002  (to go on from, but the trial has completed)" in output
    assert "nothing was removed" in errors
    assert files(sweep) == before


def test_of_the_best_trials_the_best_epoch_stays(sweep: Path, clean: Clean, tmp_path: Path) -> None:
    plan = json.loads(clean(sweep, "--keep-trials", "1", "--json")[1])
    before = files(sweep)
    assert clean(sweep, "--keep-trials", "1", "--yes")[0] == 0
    gone = before - files(sweep)
    assert len(gone) == sum(one["files"] for one in plan["leftovers"]) == 2 * (8 + 6) - 3
    assert all("/checkpoint/" in name for name in gone)
    left = [name for name in files(sweep) if "/checkpoint/" in name]
    assert len(left) == 3
    assert export_main([str(sweep), "--out", str(tmp_path / "model"), "--data", str(tmp_path / "none")]) == 0
    assert "0 B in 0 folders may go" in clean(sweep, "--yes", "--keep-trials", "1")[1]


def test_what_is_not_ours_stays_whole(sweep: Path, clean: Clean) -> None:
    mine = checkpoint(sweep / "trials" / "0000" / "checkpoint" / "best-0007")
    (mine / "notes.txt").write_text("mine")
    (sweep / "trials" / "0000" / "checkpoint" / "own").mkdir()
    elsewhere = checkpoint(sweep.parent / "elsewhere")
    (sweep / "trials" / "0000" / "checkpoint" / "last-0009").symlink_to(elsewhere)
    (sweep / "thesis.txt").write_text("years")
    _, output, _ = clean(sweep, "--yes", "--keep-trials", "1")
    assert "best-0007 is left alone: it holds what slurmtune did not write" in output
    assert len(files(mine)) == 5
    assert (mine.parent / "own").is_dir()
    assert len(files(elsewhere)) == 4
    assert (sweep / "thesis.txt").read_text() == "years"


def test_a_trial_that_has_not_ended_keeps_all_and_half_written_ones_go(new_sweep: Any, clean: Clean) -> None:
    sweep = new_sweep()
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, "default"), [0.3, 0.4])
    sweep.finish("0000", "completed", "max_epochs")
    sweep.train(sweep.suggest(1), [0.1])
    sweep.event("attempt_ended", attempt="a1", reason="walltime")
    root = sweep.close()
    for trial in ("0000", "0001"):
        for name in ("last-0002", "best-0002", ".tmp-last-0123abcd"):
            checkpoint(root / "trials" / trial / "checkpoint" / name)
    assert clean(root, "--yes")[0] == 0
    assert sorted(path.name for path in (root / "trials/0000/checkpoint").iterdir()) == ["best-0002"]
    assert len(list((root / "trials/0001/checkpoint").iterdir())) == 3


def test_a_budget_is_for_the_best_first(new_sweep: Any, clean: Clean) -> None:
    sweep = new_sweep()
    sweep.start_attempt()
    for number in range(4):
        trial = sweep.suggest(number)
        sweep.train(trial, [0.1 * (number + 1)])
        sweep.finish(trial, "completed", "max_epochs")
        checkpoint(sweep.root / "trials" / trial / "checkpoint" / "best-0001")
    root = sweep.end()
    clean(root, "--yes", "--keep-trials", "4", "--budget", "9kB")
    assert sorted(path.parts[-3] for path in root.glob("trials/*/checkpoint/best-*")) == ["0002", "0003"]
    clean(root, "--yes", "--budget", "1kB")
    assert [path.parts[-3] for path in root.glob("trials/*/checkpoint/best-*")] == ["0003"]


def test_not_while_a_driver_writes(sweep: Path, clean: Clean) -> None:
    journal = Journal(sweep / "journal.jsonl")
    before = files(sweep)
    code, output, errors = clean(sweep, "--yes")
    assert (code, output) == (7, "")
    assert "is being written by a running sweep" in errors
    assert files(sweep) == before
    journal.close()


def test_sizes() -> None:
    assert [size_text(size) for size in (999, 1234, 5_400_000, 2e12)] == ["999 B", "1.2 kB", "5.4 MB", "2.0 TB"]
    with pytest.raises(SystemExit, match="2"):
        main(["x", "--budget", "many"])
