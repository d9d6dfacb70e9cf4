"""Sweeps' directories that were damaged, held, closed or changed: what is refused, and in which words."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweeps import ROOT, SWEEP

from hpo.config import SweepConfig
from hpo.fingerprint import check_unchanged, code_versions, describe_change, last_code
from hpo.layout import SweepDirectory, read_json, write_json
from hpo.records import Journal, read_events
from hpo.search.plugins import open_sweep


def submit(*arguments):
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), *(str(part) for part in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def refused(directory, code, *words):
    """--resume says on one line why not, and changes nothing."""
    before = (directory.root / "journal.jsonl").read_bytes() if directory.journal.exists() else b""
    done = submit("--resume", directory.root)
    assert done.returncode == code, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "error" in line]
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr
    assert not directory.journal.exists() or directory.journal.read_bytes() == before
    return line


@pytest.fixture
def swept(shards, tmp_path):
    """The directory of a sweep of which an attempt has run two epochs of a trial, told by hand."""
    (tmp_path / "small.yaml").write_text(SWEEP.format(data=shards, epochs=3, trials=3))
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(tmp_path / "small.yaml"), "--stage-only"]
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    directory = SweepDirectory(tmp_path / "run")
    resolved = read_json(directory.resolved)
    write_json(directory.resolved, {**resolved, "cluster": "local"})
    journal = Journal(directory.journal)
    sweep = open_sweep(SweepConfig.from_json(resolved), journal, "a1", directory)
    sweep.start_attempt(job="7", host="node17", nodes=1, code=code_versions())
    trial = sweep.next_trial()
    sweep.start_trial(trial.id, "node17")
    for epoch in (1, 2):
        sweep.report(trial.id, epoch, {"val_accuracy": 0.5})
    journal.close()
    return directory


def test_a_second_driver_is_refused_and_told_who_holds_the_sweep(swept):
    holder = Journal(swept.journal)
    line = refused(swept, 7, "is being written by attempt a1 on node17", "wait for it or cancel it")
    assert str(swept.journal) in line
    driver = subprocess.run(
        [sys.executable, "-m", "hpo.cluster.driver_main", swept.root, "a2"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert driver.returncode == 7
    assert "is being written by attempt a1 on node17" in driver.stdout
    holder.close()


def test_a_journal_of_a_newer_format_is_refused(swept):
    line = json.loads(swept.journal.read_text().splitlines()[-1])
    with swept.journal.open("a") as stream:
        stream.write(json.dumps({**line, "v": 99, "n": line["n"] + 1}) + "\n")
    refused(swept, 7, "has format 99", "use a newer slurmtune")


def test_a_damaged_line_is_refused_with_its_place(swept):
    content = bytearray(swept.journal.read_bytes())
    content[content.index(b"\n") + 1] ^= 64
    swept.journal.write_bytes(content)
    refused(swept, 7, "line 2 is damaged", "restore it from a copy")


def test_a_half_written_resolved_json_is_refused(swept):
    content = swept.resolved.read_bytes()
    swept.resolved.write_bytes(content[: len(content) // 2])
    refused(swept, 2, str(swept.resolved), "is not readable JSON")


def test_another_search_is_refused(swept):
    """What would mix two searches in one table."""
    resolved = read_json(swept.resolved)
    for change, word in (
        ({"seed": 5}, "seed"),
        ({"metric": "val_loss", "mode": "min"}, "metric, mode"),
        ({"tune": {**resolved["tune"], "reduction_factor": 4}}, "reduction_factor"),
        ({"constants": {**resolved["constants"], "optim.max_epochs": 9}}, "constants"),
    ):
        write_json(swept.resolved, {**resolved, **change})
        refused(swept, 2, f"{word} in resolved.json changed since the sweep began", "submit a new sweep")


def test_what_moves_no_value_may_change(swept):
    resolved = read_json(swept.resolved)
    tune = {**resolved["tune"], "num_trials": 9, "hang_timeout": 5, "cpus_per_trial": 2.0, "num_to_keep": 7}
    check_unchanged(read_events(swept.journal)[0], SweepConfig.from_json({**resolved, "tune": tune}))


def test_other_data_are_refused(swept, tmp_path):
    resolved = read_json(swept.resolved)
    manifest = Path(resolved["data"]) / "manifest.json"
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": "f" * 64}))
    write_json(swept.resolved, {**resolved, "data": str(other)})
    refused(swept, 2, f"the data in {other} changed since the sweep began", "now ffffffffffff")
    write_json(swept.resolved, {**resolved, "data": str(tmp_path / "gone")})
    refused(swept, 3, "gone")


def test_other_code_is_said(swept):
    now, before = code_versions(), last_code(read_events(swept.journal))
    assert describe_change(before, now) == ""
    assert describe_change(None, now) == ""
    assert describe_change({**before, "torch": "1.0"}, now) == f"torch 1.0, now {now['torch']}"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_directory_that_cannot_be_written(swept):
    mounts = [["mount", "--bind", swept.root, swept.root], ["mount", "-o", "remount,bind,ro", swept.root]]
    if any(subprocess.run(mount, capture_output=True, check=False).returncode for mount in mounts):
        subprocess.run(["umount", swept.root], capture_output=True, check=False)
        pytest.skip("mounting is not permitted here")
    try:
        refused(swept, 7, "journal.jsonl cannot be written (Read-only file system)", "writable")
        command = [sys.executable, ROOT / "launch" / "results.py", swept.root, "--json"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert json.loads(shown)["best"] == "0000"
    finally:
        subprocess.run(["umount", swept.root], check=True)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    """A process that writes one file again and again is killed 30 times: a reader never finds a part."""
    path = tmp_path / "value.json"
    code = (
        "import sys, itertools; from pathlib import Path; from hpo.layout import write_json\n"
        "for i in itertools.count(): write_json(Path(sys.argv[1]), {'i': i, 'pad': 'x' * 200000})"
    )
    for _ in range(30):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
        end = time.monotonic() + 60
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < end
        time.sleep(random.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=60)
        assert len(read_json(path)["pad"]) == 200000
