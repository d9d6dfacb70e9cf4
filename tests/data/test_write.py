"""Preparing is the same with one worker or many, broken off or not, and never mixes two things in one directory."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpo.data.bundled import ARCHIVE
from hpo.data.check import check
from hpo.data.decode import decode_rgb
from hpo.data.plan import Recipe, plan_shards
from hpo.data.read import describe, open_split
from hpo.data.sources import SourceOptions, find_source
from hpo.data.split import Shares, assign_splits
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
RAW = Recipe(encoding="raw", size=64, shard_mib=1)


def contents(directory: Path) -> dict[str, Any]:
    """Every byte of a data directory but the times."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for shard in manifest["shards"]:
        del shard["mtime_ns"]
    found: dict[str, Any] = {"manifest.json": manifest}
    found |= {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "data"
    prepare(find_source(ARCHIVE), out, RAW, workers=1)
    return out


def test_workers_change_nothing(unbroken: Path, tmp_path: Path) -> None:
    prepare(find_source(ARCHIVE), tmp_path / "data", RAW, workers=2)
    assert contents(tmp_path / "data") == contents(unbroken)
    assert not list((tmp_path / "data").glob(".*"))


def start(out: Path) -> subprocess.Popen[bytes]:
    arguments = ["--out", str(out), "--encoding", "raw", "--size", "64", "--shard-size", "1", "--workers", "2"]
    command = [sys.executable, str(REPOSITORY / "launch" / "prepare.py"), str(ARCHIVE), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_killed_again_and_again_it_ends_the_same(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    for shards in (1, 12, 25):
        process = start(out)
        wait_for(lambda least=shards: len(list(out.glob("*.h5"))) >= least, f"{shards} shards")
        workers = children_of(process.pid)
        process.kill()
        process.wait(10)
        assert not (out / "manifest.json").exists(), "it was faster than the kill"
        with pytest.raises(DataError, match="is not finished"):
            describe(out)
        wait_for(lambda left=workers: not any(Path(f"/proc/{pid}").exists() for pid in left), "workers that live on")
    kept = {path.name: path.stat().st_ino for path in out.glob("*.h5")}
    (out / ".train-00001-of-00036.h5.tmp").write_bytes(b"torn")
    damaged = out / "train-00000-of-00036.h5"
    data = bytearray(damaged.read_bytes())
    data[-1000] ^= 1
    damaged.write_bytes(data)
    messages: list[str] = []
    prepare(find_source(ARCHIVE), out, RAW, workers=2, tell=messages.append)
    assert contents(out) == contents(unbroken)
    again = {name for name, inode in kept.items() if (out / name).stat().st_ino != inode}
    assert again == {damaged.name}
    assert any(f"{len(kept) - 1} of " in message for message in messages)
    assert check(out, 1) == []


def test_ctrl_c_leaves_no_worker(tmp_path: Path) -> None:
    out = tmp_path / "data"
    process = start(out)
    wait_for(lambda: len(list(out.glob("*.h5"))) >= 2, "two shards")
    workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers that live on")
    assert not (out / "manifest.json").exists()


def test_a_second_run_finds_it_complete(class_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = prepare(find_source(class_folder), out, Recipe())
    before = contents(out)
    messages: list[str] = []
    assert prepare(find_source(class_folder), out, Recipe(), tell=messages.append) == first
    assert contents(out) == before
    assert any("complete already" in message for message in messages)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(size=32), "begun with --size None, now it is 32"),
        (Recipe(seed=3), "begun with --seed 0, now it is 3"),
        (Recipe(max_side=None), "begun with --max-side 1024, now it is None"),
        (Recipe(shares=Shares(0.2, 0.1)), "begun with --validation 0.1, now it is 0.2"),
        (Recipe(shard_mib=1), "begun with --shard-size 256, now it is 1"),
    ],
)
def test_other_options_are_not_mixed_in(
    class_folder: Path, tmp_path: Path, finished: bool, recipe: Recipe, message: str
) -> None:
    out = tmp_path / "data"
    prepare(find_source(class_folder), out, Recipe())
    if not finished:
        (out / ".prepare").mkdir()
        (out / ".prepare" / "plan.json").write_text(
            json.dumps(json.loads((out / "manifest.json").read_text())["source"])
        )
        (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match=message):
        prepare(find_source(class_folder), out, recipe)


def test_another_source_is_not_mixed_in(class_folder: Path, split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(find_source(class_folder), out, Recipe())
    with pytest.raises(UsageError, match=r"images \(36 images\); .*split images \(36 images\) differs"):
        prepare(find_source(split_folder), out, Recipe())
    shutil.copy(class_folder / "hat" / "00.jpg", class_folder / "hat" / "99.jpg")
    with pytest.raises(UsageError, match=r"\(37 images\) differs in images, labels or splits"):
        prepare(find_source(class_folder), out, Recipe())


@pytest.mark.parametrize("what", ["file", "folder of things"])
def test_what_is_not_ours_stays(class_folder: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "data"
    if what == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="is a file" if what == "file" else "holds something else .'thesis.tex'"):
        prepare(find_source(class_folder), out, Recipe())
    assert not (out / ".prepare").exists()


def test_two_at_once_do_not_write_together(tmp_path: Path) -> None:
    out = tmp_path / "data"
    process = start(out)
    try:
        wait_for(lambda: len(list(out.glob("*.h5"))) >= 1, "a shard")
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(UsageError, match="another prepare.py is writing"):
            prepare(find_source(ARCHIVE), out, RAW)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)


def spoil(folder: Path) -> None:
    (folder / "hat" / "00.jpg").write_bytes(b"")
    (folder / "shoes" / "05.jpg").write_bytes((folder / "shoes" / "05.jpg").read_bytes()[:1500])
    (folder / "t-shirt" / "a, b.jpg").write_text("not an image")
    (folder / "t-shirt" / "link.jpg").symlink_to("nowhere.jpg")


def test_unreadable_images_are_listed_and_left_out(class_folder: Path, tmp_path: Path) -> None:
    spoil(class_folder)
    messages: list[str] = []
    summary = prepare(find_source(class_folder), tmp_path / "data", Recipe(), workers=2, tell=messages.append)
    with (tmp_path / "data" / "skipped.csv").open(newline="") as stream:
        rows = {row["image"]: row["reason"] for row in csv.DictReader(stream)}
    assert rows == {
        "hat/00.jpg": "empty file",
        "shoes/05.jpg": "Premature end of JPEG file",
        "t-shirt/a, b.jpg": "not an image of a known format (JPEG, PNG, WebP, BMP, GIF, TIFF)",
        "t-shirt/link.jpg": "No such file or directory",
    }
    assert (summary.skipped, sum(summary.splits.values())) == (4, 34)
    warning = next(message for message in messages if "cannot be read" in message)
    assert "4 images" in warning
    assert "skipped.csv" in warning


def test_strict_stops_at_an_unreadable_image(class_folder: Path, tmp_path: Path) -> None:
    spoil(class_folder)
    with pytest.raises(DataError, match="hat/00.jpg of .* cannot be read: empty file"):
        prepare(find_source(class_folder), tmp_path / "data", Recipe(), strict=True)
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_a_source_of_nothing_readable(class_folder: Path, tmp_path: Path) -> None:
    for path in class_folder.rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match="none of the training images"):
        prepare(find_source(class_folder), tmp_path / "data", Recipe())


def test_what_follows_from_the_content(class_folder: Path, tmp_path: Path) -> None:
    """The fingerprint and the sample ids: the same elsewhere and later, others for other content."""
    moved = tmp_path / "moved"
    shutil.copytree(class_folder, moved, copy_function=shutil.copy)
    first, second = (
        prepare(find_source(path), tmp_path / f"of {path.name}", Recipe()) for path in (class_folder, moved)
    )
    assert first.fingerprint == second.fingerprint
    ids = [open_split(tmp_path / f"of {path.name}", "train").sample_ids.tolist() for path in (class_folder, moved)]
    assert ids[0] == ids[1]
    image, other = moved / "hat" / "00.jpg", moved / "hat" / "01.jpg"
    image.write_bytes(other.read_bytes())
    assert prepare(find_source(moved), tmp_path / "changed", Recipe()).fingerprint != first.fingerprint


def test_leaks_between_splits_are_counted(split_folder: Path, tmp_path: Path) -> None:
    for name in ("test", "val"):
        shutil.copy(split_folder / "train" / "hat" / "00.jpg", split_folder / name / "hat" / "copy.jpg")
    shutil.copy(split_folder / "train" / "shoes" / "00.jpg", split_folder / "test" / "shoes" / "copy.jpg")
    shutil.copy(split_folder / "train" / "shoes" / "00.jpg", split_folder / "train" / "shoes" / "copy.jpg")
    messages: list[str] = []
    summary = prepare(find_source(split_folder), tmp_path / "data", Recipe(), tell=messages.append)
    assert summary.duplicates_across_splits == 2
    assert any("2 images occur in more than one split" in message for message in messages)


def test_names_of_any_kind(tmp_path: Path, photographs: dict[str, list[bytes]]) -> None:
    folder = tmp_path / "images"
    for name in ("Écharpe d'été", "日本 語"):
        (folder / name).mkdir(parents=True)
        for i, data in enumerate(photographs["hat"][:6]):
            (folder / name / f"{i} ü.jpg").write_bytes(data)
    (folder / "日本 語" / os.fsdecode(b"no \xff unicode.jpg")).write_bytes(b"bad")
    summary = prepare(find_source(folder), tmp_path / "data", Recipe())
    assert open_split(tmp_path / "data", "train").class_names == summary.class_names == ["Écharpe d'été", "日本 語"]
    assert "unicode.jpg" in (tmp_path / "data" / "skipped.csv").read_text()


def test_regression_from_a_table(write_table: Callable[..., Path], tmp_path: Path) -> None:
    path = write_table("image,label,weight", *(f"hat/{i:02d}.jpg,{i}.5,{2 * i}" for i in range(12)))
    source = find_source(path, SourceOptions(label_columns=("label", "weight")))
    summary = prepare(source, tmp_path / "data", Recipe(encoding="raw", size=16))
    assert (summary.task, summary.num_classes, summary.class_names) == ("regression", 2, [])
    assert summary.splits == {"train": 10, "validation": 1, "test": 1}
    shards = open_split(tmp_path / "data", "train")
    assert shards.labels.dtype == np.float32
    assert shards.labels.tolist() == [[i + 0.5, 2 * i] for i in shards.sample_ids.tolist()]
    assert check(tmp_path / "data", 1) == []


def test_foreign_hdf5(photographs: dict[str, list[bytes]], tmp_path: Path) -> None:
    pixels = np.stack([decode_rgb(data)[:90, :90] for data in photographs["shoes"]])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file.create_dataset("images", data=pixels, chunks=(5, 90, 90, 3), compression="gzip")
        file["labels"] = np.arange(12) % 2
    prepare(find_source(tmp_path / "foreign.h5"), tmp_path / "data", Recipe(encoding="raw", size=90), workers=2)
    for split in ("train", "validation", "test"):
        shards = open_split(tmp_path / "data", split)
        out = np.zeros((len(shards), 90, 90, 3), np.uint8)
        shards.gather(np.arange(len(shards)), out)
        ids = shards.sample_ids.astype(int)
        assert (out == pixels[ids]).all()
        assert (shards.labels == ids % 2).all()


def test_shards_are_cut_evenly_and_whole() -> None:
    listing = find_source(ARCHIVE).listing
    codes, _ = assign_splits(listing, Shares(), 0)
    planned = plan_shards(listing, codes, RAW)
    train = [shard for shard in planned if shard.split == "train"]
    assert np.concatenate([shard.ids for shard in train]).tolist() == np.flatnonzero(codes == 0).tolist()
    assert len(train) == -(-3068 * 64 * 64 * 3 // 2**20)
    assert {len(shard.ids) for shard in train} <= {85, 86, 87, 88}
    assert all(shard.index == i and shard.count == len(train) for i, shard in enumerate(train))


def test_raw_needs_a_size() -> None:
    with pytest.raises(UsageError, match="--encoding raw .* add --size N"):
        Recipe(encoding="raw")


def test_a_place_where_nothing_can_be_written(class_folder: Path) -> None:
    with pytest.raises(DataError, match="/proc/data cannot be written .* run the same command again"):
        prepare(find_source(class_folder), Path("/proc/data"), Recipe())


def test_a_full_disk_is_one_line_and_can_go_on(class_folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: HDF5 meets the same kind of error."""
    out = tmp_path / "data"
    arguments = ["--out", str(out), "--encoding", "raw", "--size", "200"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "launch" / "prepare.py"), str(class_folder), *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in last
    assert "run the same command again" in last
    assert "Traceback" not in done.stderr
    assert prepare(find_source(class_folder), out, Recipe(encoding="raw", size=200)).splits["train"] == 30
