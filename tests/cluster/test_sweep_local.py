"""A real sweep on this machine: real Ray, real photographs, real kills."""

from __future__ import annotations

import collections
import csv
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from described_files import undescribed
from journal_schema import breaches

from hpo.cluster.processes import end_processes, find_processes
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


def start(path, run):
    command = [
        sys.executable,
        str(ROOT / "launch" / "submit.py"),
        str(path),
        "--cluster",
        "local",
        "--run-dir",
        str(run),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def state_of(run):
    return SweepState(read_events(run / "journal.jsonl"))


def assert_nothing_is_left(run, seconds=5):
    """No process of the sweep and no temp directory, `seconds` after its end."""
    marks = {json.loads(path.read_text())["temp"] for path in run.glob("attempts/*/head.json")}
    end = time.monotonic() + seconds
    while left := [pid for mark in [*marks, str(run)] for pid in find_processes(mark)]:
        assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.1)
    assert not [mark for mark in marks if Path(mark).exists()]


def test_a_sweep_from_photographs_to_a_report(tmp_path, write_sweep, submit, results, monkeypatch):
    """With processes that are replaced after two trials."""
    monkeypatch.setenv("SLURMTUNE_TRIALS_PER_PROCESS", "2")
    run = tmp_path / "run"
    done = submit(write_sweep(tmp_path), "--cluster", "local", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert_nothing_is_left(run)
    state = state_of(run)
    assert state.ended
    assert len(state.trials) == 5
    assert all(trial.state in ("completed", "stopped") for trial in state.trials.values())
    assert state.trials["0000"].origin == "default"
    assert state.trials["0000"].params["optim.lr"] == 1e-3
    assert "best configuration" in done.stdout
    found = results(run)
    assert found["best"] == state.incumbent().id

    trial = run / "trials" / "0000"  # Ray Tune's own names
    assert json.loads((trial / "params.json").read_text())["optim.lr"] == 1e-3
    rows = [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]
    assert [row["training_iteration"] for row in rows] == list(range(1, state.trials["0000"].epochs + 1))
    with (trial / "progress.csv").open() as stream:
        assert [float(row["val_accuracy"]) for row in csv.DictReader(stream)] == [row["val_accuracy"] for row in rows]
    assert list(trial.glob("events.out.tfevents.*"))
    assert "epoch 1" in (trial / "log.txt").read_text()
    assert (run / "best" / "weights.safetensors").is_file()
    assert json.loads((run / "best" / "config.json").read_text())["trial"] == state.incumbent().id
    assert "<html" in (run / "report.html").read_text().lower()
    log = next(run.glob("attempts/*/driver.log")).read_text()
    assert f"Current best trial: {state.incumbent().id} with val_accuracy=" in log
    logs = [path.read_text() for path in run.glob("trials/*/log.txt")]
    served = collections.Counter(re.search(r"from the start, process (\d+)", text).group(1) for text in logs)
    assert max(served.values()) == 2
    assert len(served) >= 3
    assert sum("it has run 2 trials" in text for text in logs) == list(served.values()).count(2)

    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "secrets" / "ray_token").stat().st_mode) == 0o600
    token = (run / "secrets" / "ray_token").read_text()
    for path in run.rglob("*"):
        if path.is_file() and path.name != "ray_token":
            assert token.encode() not in path.read_bytes(), path
    assert undescribed(run) == []
    (run / "notes.txt").write_text("mine")
    assert undescribed(run) == ["notes.txt"]


def test_killed_outright_it_goes_on_and_finishes(tmp_path, write_sweep, submit, wait_for_event):
    """SIGKILL for every process of the sweep in the middle; --resume finishes with all trials, none run twice."""
    run = tmp_path / "run"
    process = start(write_sweep(tmp_path, trials=4, epochs=6, per_class=40), run)
    wait_for_event(
        run, lambda s: any(t.finished for t in s.trials.values()) or sum(t.epochs for t in s.trials.values()) > 4
    )
    marks = [json.loads(path.read_text())["temp"] for path in run.glob("attempts/*/head.json")]
    process.kill()
    pids = {pid for mark in [*marks, str(run)] for pid in find_processes(mark)}
    assert len(pids) > 4
    end_processes(pids)
    process.communicate()
    before = state_of(run)
    with (run / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"v": 1, "n": 9999, "torn')  # as if cut off while writing

    done = submit("--resume", run)
    assert done.returncode == 0, done.stderr
    after = state_of(run)
    assert after.ended
    assert len(after.trials) == 4
    assert all(trial.finished for trial in after.trials.values())
    for trial in before.trials.values():
        same = after.trials[trial.id]
        assert same.params == trial.params
        assert {e: same.first[e] for e in trial.first} == trial.first
        if trial.finished:
            assert same.last == trial.last, "a finished trial ran again"
    resumed = [e for e in read_events(run / "journal.jsonl") if e["type"] == "started" and e["epoch"] > 0]
    assert {e["trial"] for e in resumed} == {t.id for t in before.trials.values() if not t.finished and t.checkpoint}
    assert_nothing_is_left(run)
    again = submit("--resume", run)
    assert again.returncode == 0
    assert "has ended" in again.stderr
    assert not breaches(run / "journal.jsonl")


def test_ctrl_c_stops_it_so_that_it_can_go_on(tmp_path, write_sweep, wait_for_event):
    run = tmp_path / "run"
    process = start(write_sweep(tmp_path, trials=4, epochs=30), run)
    wait_for_event(run, lambda s: any(t.epochs for t in s.trials.values()))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "stopped on request" in state_of(run).attempts[-1]["ended"]["reason"]
    assert_nothing_is_left(run)


def test_a_trial_process_that_dies_is_started_again_from_its_checkpoint(tmp_path, write_sweep, wait_for_event):
    run = tmp_path / "run"
    process = start(write_sweep(tmp_path, trials=2, epochs=8, per_class=40), run)
    wait_for_event(run, lambda s: "0000" in s.trials and s.trials["0000"].epochs >= 2)
    [mark] = [json.loads(path.read_text())["temp"] for path in run.glob("attempts/*/head.json")]
    for pid in find_processes(mark):
        if b"Trainable" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    state = state_of(run)
    lost = [failure for trial in state.trials.values() for failure in trial.failures]
    assert lost
    assert all(failure["kind"] == "killed" and failure["retry"] for failure in lost)
    assert all(trial.finished for trial in state.trials.values())
    starts = [e for e in read_events(run / "journal.jsonl") if e["type"] == "started" and e["trial"] == "0000"]
    assert starts[-1]["epoch"] >= 1
    assert_nothing_is_left(run)


def test_when_every_trial_fails_it_says_why_and_ends(tmp_path, write_sweep, submit):
    path = write_sweep(tmp_path, trials=12)
    done = submit(path, "--cluster", "local", "--run-dir", tmp_path / "run", "--set", "env.accelerator=gpu")
    assert done.returncode == 6, done.stderr
    assert "CUDA" in done.stderr
    state = state_of(tmp_path / "run")
    assert len(state.trials) < 8
    assert {failure["kind"] for t in state.trials.values() for failure in t.failures} == {"accelerator"}


def test_a_paused_trial_goes_on_from_memory(tmp_path, write_sweep, submit):
    """Promotion, of two trials in one process: both pause at the first rung, then the better one goes the whole way."""
    run = tmp_path / "run"
    path = write_sweep(tmp_path, trials=2, epochs=2)
    settings = ["scheduler_init_args={type: promotion}", f"resources_per_trial={{num_cpus: {os.cpu_count()}}}"]
    done = submit(path, "--cluster", "local", "--run-dir", run, *(w for text in settings for w in ("--set", text)))
    assert done.returncode == 0, done.stderr
    events = read_events(run / "journal.jsonl")
    assert [e["action"] for e in events if e["type"] == "decided" and e["rung"] == 1] == ["pause", "pause"]
    [promoted, left] = [e for e in events if e["type"] == "reviewed"]
    assert (promoted["action"], promoted["rank"], left["action"], left["rank"]) == ("continue", 1, "stop", 2)
    starts = [(e["epoch"]) for e in events if e["type"] == "started" and e["trial"] == promoted["trial"]]
    assert starts == [0, 1]
    state = state_of(run)
    assert sorted(state.trials[promoted["trial"]].last) == [1, 2]
    assert {t.state for t in state.trials.values()} == {"completed", "stopped"}
    opened = [e["opened"] for e in events if e["type"] == "reported"]
    assert 0 < opened[2] < min(opened[:2]) / 2
    assert "going on after epoch 1, from memory" in (run / "trials" / promoted["trial"] / "log.txt").read_text()
    assert_nothing_is_left(run)
