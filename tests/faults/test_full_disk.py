"""A file system that becomes full, and has room again: the journal, a training, a whole sweep go on where they were."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from course import course, curves
from small_sweeps import ROOT, SWEEP

from hpo.errors import JournalError
from hpo.failures import classify
from hpo.records import Journal, SweepState, read_events
from hpo.trial import Training
from hpo.trialconfig import TrialConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 4 MB; `grow` gives it more."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def grow(folder):
    subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)


def test_the_journal_keeps_whole_lines_and_goes_on(small_disk):
    journal = Journal(small_disk / "journal.jsonl")
    with pytest.raises(JournalError, match=r"cannot be written \(No space left on device\); free space there"):
        fill(journal)
    written = len(journal.events)
    assert len(read_events(small_disk / "journal.jsonl")) == written > 100
    grow(small_disk)
    journal.append("suggested", trial="again")
    journal.close()
    assert [event["n"] for event in read_events(small_disk / "journal.jsonl")] == list(range(written + 1))


def test_a_command_says_what_is_full_and_leaves_nothing(shards, small_disk, tmp_path):
    (tmp_path / "small.yaml").write_text(SWEEP.format(data=shards, epochs=1, trials=1))
    (small_disk / "other").write_bytes(bytes(4 * 2**20 - 8192))  # two pages are left
    command = [sys.executable, ROOT / "launch" / "submit.py", tmp_path / "small.yaml", "--stage-only"]
    done = subprocess.run([*command, "--run-dir", small_disk / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith("No space left on device; make room there.")
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_a_training_keeps_its_checkpoint_and_goes_on(shards, small_disk, tmp_path):
    """Its failure is of class disk, after which the attempt ends and no trial has failed."""
    keys = {"model.timm_image.checkpoint_name": "test_vit", "model.timm_image.pretrained": "false",
            "optim.max_epochs": 3, "env.batch_size": 32, "env.accelerator": "cpu"}  # fmt: skip
    config = TrialConfig.from_flat(keys, metric="val_accuracy", mode="max", seed=0, num_to_keep=1)
    with Training(config, shards, tmp_path / "whole") as training:
        whole = [losses(training.run_epoch()) for _ in range(3)]
    with Training(config, shards, small_disk / "trial") as training:
        broken = [losses(training.run_epoch())]
        (small_disk / "neighbour").write_bytes(b"x" * free(small_disk))
        with pytest.raises(Exception, match=r"No space left|file write failed|I/O error") as full:
            training.run_epoch()
    assert classify(full.value) == "disk"
    (small_disk / "neighbour").unlink()
    with Training(config, shards, small_disk / "trial") as training:
        assert training.epoch == 1
        grow(small_disk)
        broken += [losses(training.run_epoch()) for _ in range(2)]
    assert broken == whole


def fill(journal):
    while len(journal.events) < 10**6:
        journal.append("suggested", trial="0000", pad="x" * 10000)


def losses(metrics):
    return metrics["train_loss"], metrics["val_loss"]


def free(folder):
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def submit(*arguments):
    command = [sys.executable, ROOT / "launch" / "submit.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)


def swept(folder, *more):
    """Events of a sweep in `folder`, run with submit.py `more`; its end is the test's to judge."""
    done = submit(*more)
    return done, read_events(folder / "journal.jsonl")


@pytest.mark.ray
@pytest.mark.faults
def test_a_full_disk_ends_the_attempt_and_nothing_is_lost(shards, small_disk, tmp_path):
    """A message and an exit code; with room again --resume goes the way of a sweep that always had it, to the bit.

    With --no-check, since submit.py refuses a disk that is too small from the start."""
    sweep = tmp_path / "small.yaml"
    sweep.write_text(SWEEP.format(data=shards, epochs=3, trials=5))
    asked = (sweep, "--cluster", "local", "--no-check", "--deterministic", "2", "--set", "scheduler=FIFO")
    done, whole = swept(tmp_path / "whole", *asked, "--run-dir", tmp_path / "whole")
    assert done.returncode == 0, done.stderr

    run = small_disk / "run"
    done, before = swept(run, *asked, "--run-dir", run)
    assert done.returncode == 75, done.stderr
    [said] = [line for line in done.stderr.splitlines() if "make room" in line]
    assert f"submit.py --resume {run}" in said
    assert any(event["type"] == "reported" for event in before)
    assert all(trial.state != "failed" for trial in SweepState(before).trials.values())
    assert not any(event["type"] == "sweep_ended" for event in before)

    grow(small_disk)
    done, after = swept(run, "--resume", run)
    assert done.returncode == 0, done.stderr
    assert after[: len(before)] == before
    assert course(after) == course(whole)
    assert curves(after) == curves(whole)
    assert len(curves(after)) == 15
