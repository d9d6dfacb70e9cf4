"""prepare.py as a person runs it: in a process of its own, from anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launch.prepare import main

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHIVE = REPOSITORY / "launch" / "demo" / "clothing.zip"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty photographs of two classes, one of them damaged."""
    root = tmp_path / "my images"
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in ("hat", "skirt"):
            (root / name).mkdir(parents=True)
            for i in range(1, 11):
                (root / name / f"{i}.jpg").write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))
    (root / "hat" / "7.jpg").write_bytes(b"rubbish")
    return root


def prepare(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "launch" / "prepare.py"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def test_from_a_folder_to_checked_shards(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder, "--out", "data", "--encoding", "raw", "--size", "48", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "data: 15 train, 2 validation, 2 test; 2 classes; raw, 1 MiB in 3 shards, 1 images skipped\n"
    assert "splits drawn with seed 0" in done.stderr
    assert "warning: 1 images cannot be read and are left out (hat/7.jpg: not an image" in done.stderr
    assert "20 of 20 images, 100%" in done.stderr
    checked = prepare("--check", "data", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "data: 19 images in 3 shards, sound\n")


def test_damage_is_exit_code_3(folder: Path, tmp_path: Path) -> None:
    prepare(folder, "--out", "data", "--encoding", "raw", "--size", "48", cwd=tmp_path)
    shard = tmp_path / "data" / "train-00000-of-00001.h5"
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    place = next(entry for entry in manifest["shards"] if entry["split"] == "train")["data_offset"]["images"]
    with shard.open("r+b") as stream:
        stream.seek(place + 48 * 48 * 3 * 4 + 7)
        stream.write(b"\x55\xaa\x55")
    done = prepare("--check", "data", cwd=tmp_path)
    assert done.returncode == 3
    assert "train-00000-of-00001.h5 sample 4: crc32 differs" in done.stdout
    assert "2 damages" in done.stdout
    listed = json.loads(prepare("--check", "data", "--json", cwd=tmp_path).stdout)
    assert listed["sound"] is False
    assert [(damage["shard"], damage["sample"]) for damage in listed["damages"]] == [
        (shard.name, None),
        (shard.name, 4),
    ]


def test_json_is_all_there_is_on_stdout(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder, "--out", tmp_path / "data", "--json", "--validation", "0.2", "--test", "0", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert summary["splits"] == {"train": 15, "validation": 4, "test": 0}
    assert (summary["encoding"], summary["skipped"], summary["task"]) == ("jpeg", 1, "classification")
    assert summary["class_names"] == ["hat", "skirt"]
    assert len(summary["fingerprint"]) == 64


def test_a_table_and_the_task_that_was_chosen(folder: Path, tmp_path: Path) -> None:
    table = folder / "prices.csv"
    table.write_text("file,price\n" + "".join(f"skirt/{i}.jpg,{i}.25\n" for i in range(1, 11)))
    wrong = prepare(table, "--out", "data", "--label-column", "price", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "has no column 'image'; it has 'file', 'price'." in wrong.stderr
    done = prepare(table, "--out", "data", "--image-column", "file", "--label-column", "price", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "task: regression (told from the labels" in done.stderr
    assert "8 train, 1 validation, 1 test; 1 target(s); jpeg" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "x"], 2, "name the images to prepare, or --demo"),
        ([str(ARCHIVE)], 2, "add --out DATA"),
        (["nowhere", "--out", "x"], 2, "nowhere does not exist"),
        ([str(ARCHIVE), "--out", "x", "--encoding", "raw"], 2, "add --size N"),
        ([str(ARCHIVE), "--out", "x", "--validation", "2"], 2, "--validation 2.0 is not a share"),
        ([str(ARCHIVE), "--out", "x", "--image-column", "y"], 2, "--image-column does not apply"),
        ([str(ARCHIVE), "--out", "x", "--demo"], 2, "name the images to prepare, or --demo"),
        (["--demo", "--out", "x", "--size", "32"], 2, "takes no --size"),
        (["--check", "x", "--strict"], 2, "takes no --strict"),
        (["--check", "nowhere"], 3, "data directory nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.splitlines()[-1].startswith("slurmtune: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"), [("--size", "0"), ("--size", "big"), ("--max-side", "-1"), ("--workers", "0")]
)
def test_numbers_that_are_none(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["images", "--out", "x", option, value])
    assert caught.value.code == 2
    assert "is not a whole number of at least 1" in capsys.readouterr().err


def test_help_is_light_and_work_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = """
import sys
from launch.prepare import main
try:
    main(["--help"])
except SystemExit:
    pass
assert not {"numpy", "h5py", "PIL", "cv2", "simplejpeg"} & set(sys.modules)
assert main(["--demo", "--out", sys.argv[1]]) == 0
assert main(["--check", sys.argv[1]]) == 0
assert not {"torch", "ray", "pandas"} & set(sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "python launch/prepare.py --demo" in done.stdout
    assert "3068 train, 341 validation, 372 test; 10 classes; raw, 47 MiB in 3 shards" in done.stdout
