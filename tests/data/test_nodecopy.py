"""One copy per node: made once for many processes, whole, checked, and gone when nobody uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.data import nodecopy, storage
from hpo.data.manifest import read_manifest
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError

USE = """
import sys, time, logging
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from hpo.data.nodecopy import local_copy
place = local_copy(Path(sys.argv[1]))
print("PLACE", place, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def jpegs(split_folder: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "shared storage"
    prepare(find_source(split_folder), directory, Recipe())
    return directory


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's directory for large files; every directory counts as shared."""
    place = tmp_path / "node disk"
    place.mkdir()
    monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", str(place))
    monkeypatch.setenv("SLURMTUNE_STAGE", "always")
    monkeypatch.setattr(nodecopy, "_leases", {})
    monkeypatch.setattr(nodecopy, "_warned", set())
    monkeypatch.setattr(nodecopy.atexit, "register", lambda _: None)
    return place


def start(data: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USE, str(data)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_share_one_copy_and_the_last_removes_it(jpegs: Path, local: Path) -> None:
    users = [start(jpegs) for _ in range(3)]
    told = []
    for user in users:
        assert user.stdout
        lines = [user.stdout.readline()]
        while not lines[-1].startswith("PLACE"):
            lines.append(user.stdout.readline())
        told.append(lines)
    places = {lines[-1] for lines in told}
    assert len(places) == 1
    assert sum("copied to" in line for lines in told for line in lines) == 1
    copy = Path(places.pop().removeprefix("PLACE ").strip())
    assert copy.is_relative_to(local)
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    for split in ("train", "validation", "test"):
        there, here = open_split(copy, split), open_split(jpegs, split)
        assert [there.read_bytes(i) for i in range(len(there))] == [here.read_bytes(i) for i in range(len(here))]
    for user in users[:2]:
        user.communicate("end\n", timeout=60)
    assert copy.is_dir()  # one still uses it
    nodecopy.remove_copies()
    assert copy.is_dir()
    users[2].communicate("end\n", timeout=60)
    assert not list(local.iterdir())


def test_what_a_killed_copier_left_is_replaced(jpegs: Path, local: Path) -> None:
    first = nodecopy.local_copy(jpegs)
    expected = open_split(first, "train").read_bytes(3)
    os.close(nodecopy._leases.pop(first))  # as when its last user ends
    first.rename(first.with_name(f".{first.name}.copying"))
    (first.with_name(f".{first.name}.copying") / "manifest.json").write_text("torn")
    again = nodecopy.local_copy(jpegs)
    assert again == first
    assert open_split(again, "train").read_bytes(3) == expected
    assert not list(first.parent.glob(".*.copying"))


def test_a_copy_taken_from_its_users_is_not_waited_for(
    jpegs: Path, local: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = nodecopy.local_copy(jpegs)
    shutil.rmtree(copy)
    monkeypatch.setattr(nodecopy, "_GONE", 0.5)
    assert nodecopy.local_copy(jpegs) == jpegs
    assert "was removed while others use it" in caplog.text


def test_too_little_room_is_said_once(
    jpegs: Path, local: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nodecopy, "free_bytes", lambda _: 2**20)
    for _ in range(2):
        assert nodecopy.local_copy(jpegs) == jpegs
    assert [str(local) in record.message and "1 MiB free" in record.message for record in caplog.records] == [True]


def test_a_second_directory_is_taken_when_the_first_is_full(
    jpegs: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second").mkdir()
    monkeypatch.setenv("SLURMTUNE_LOCAL_DIRS", f"{local}:{tmp_path / 'absent'}:{tmp_path / 'second'}")
    real = storage.free_bytes
    monkeypatch.setattr(nodecopy, "free_bytes", lambda p: 0 if p.is_relative_to(local) else real(p))
    assert nodecopy.local_copy(jpegs).is_relative_to(tmp_path / "second")


@pytest.mark.parametrize("change", ["cut", "byte"])
def test_a_damaged_shard_is_not_copied(jpegs: Path, local: Path, change: str, tmp_path: Path) -> None:
    data = shutil.copytree(jpegs, tmp_path / "data")
    path = data / read_manifest(data).shards[0].path
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content[:-4] if change == "cut" else content)
    with pytest.raises(DataError, match=f"shard {path} is not as its manifest says"):
        nodecopy.local_copy(data)
    assert not [found for found in local.rglob("*") if found.suffix == ".h5"]


def test_a_strangers_directory_is_not_used(jpegs: Path, local: Path, caplog: pytest.LogCaptureFixture) -> None:
    (local / f"slurmtune-{os.getuid()}").mkdir(mode=0o755)
    assert nodecopy.local_copy(jpegs) == jpegs
    assert "not a directory of ours" in caplog.text


def test_local_data_stay_where_they_are(jpegs: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMTUNE_STAGE", "auto")
    monkeypatch.setattr(nodecopy, "is_shared", lambda path: False)
    assert nodecopy.local_copy(jpegs) == jpegs
    monkeypatch.setattr(nodecopy, "is_shared", lambda path: True)
    assert nodecopy.local_copy(jpegs) != jpegs
    monkeypatch.setenv("SLURMTUNE_STAGE", "never")
    assert nodecopy.local_copy(jpegs) == jpegs
    monkeypatch.setenv("SLURMTUNE_STAGE", "sometimes")
    with pytest.raises(UsageError, match="SLURMTUNE_STAGE must be one of auto, always, never, got 'sometimes'"):
        nodecopy.local_copy(jpegs)


def test_file_systems_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.filesystem_of(Path("/proc/self")) == "proc"
    assert not storage.is_shared(tmp_path)
    table = "20 1 0:1 / / rw - ext4 /dev/a rw\n21 20 0:2 / /home\\040dir rw - nfs4 server:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: table)
    assert storage.is_shared(Path("/home dir/data"))
    assert not storage.is_shared(Path("/home/data"))
