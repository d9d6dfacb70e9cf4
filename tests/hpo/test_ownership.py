"""A sweep that others could have written to, or whose secrets they could read, is not worked on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpo.errors import UsageError
from hpo.layout import SweepDirectory, write_text
from hpo.ownership import open_own_sweep


@pytest.fixture
def sweep(tmp_path):
    directory = SweepDirectory(tmp_path / "run")
    directory.root.mkdir(mode=0o700)
    directory.secrets.mkdir(mode=0o700)
    for path in (directory.resolved, directory.journal):
        write_text(path, "{}")
    write_text(directory.token, "sesame", 0o600)
    return directory


def test_what_is_ours_alone_is_opened_also_when_shown_to_others(sweep):
    assert open_own_sweep(sweep.root) == sweep
    sweep.root.chmod(0o750)
    sweep.resolved.chmod(0o640)
    assert open_own_sweep(sweep.root) == sweep


@pytest.mark.parametrize(
    ("name", "mode", "remedy"),
    [
        ("", 0o770, "chmod go-w"),
        ("resolved.json", 0o664, "chmod go-w"),
        ("journal.jsonl", 0o602, "chmod go-w"),
        ("secrets", 0o750, "chmod go-rwx"),
        ("secrets/ray_token", 0o640, "chmod go-rwx"),
    ],
)
def test_an_open_mode_is_refused_with_the_remedy(sweep, name, mode, remedy):
    path = sweep.root / name
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"not this user's alone .owner {os.getuid()}, mode {mode:o}.; .*{remedy}"):
        open_own_sweep(sweep.root)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.parametrize("name", ["", "resolved.json", "journal.jsonl", "secrets", "secrets/ray_token"])
def test_what_another_user_owns_is_refused(sweep, name):
    os.chown(sweep.root / name, 65534, 65534)
    with pytest.raises(UsageError, match="owner 65534, .* start a sweep of your own"):
        open_own_sweep(sweep.root)


def test_a_link_or_nothing_in_the_tokens_place_is_refused(sweep, tmp_path):
    write_text(tmp_path / "theirs", "sesame", 0o600)
    sweep.token.unlink()
    with pytest.raises(UsageError, match="ray_token cannot be read"):
        open_own_sweep(sweep.root)
    sweep.token.symlink_to(tmp_path / "theirs")
    with pytest.raises(UsageError, match="put the file itself in the link's place"):
        open_own_sweep(sweep.root)


def test_neither_resume_nor_a_job_works_on_it(sweep):
    sweep.token.chmod(0o644)
    for command in (["launch/submit.py", "--resume", sweep.root], ["-m", "hpo.cluster.attempt", sweep.root]):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120,
                              check=False)  # fmt: skip
        assert done.returncode == 2
        assert "ray_token is not this user's alone" in done.stderr
        assert "Traceback" not in done.stderr
