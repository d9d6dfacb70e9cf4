"""One real sweep whose trials fail in every way there is: what each becomes in the journal, and what runs again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_sweeps import ROOT

from hpo.failures import CLASSES
from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
SWEEP = """
name: failing
data: {data}
hyperparameters:
  model.timm_image.checkpoint_name: test_vit
  model.timm_image.pretrained: false
  optimization.learning_rate: {{loguniform: [1e-4, 3e-3], default: 1e-3}}
  optimization.max_epochs: 2
  env.batch_size: 32
hyperparameter_tune_kwargs:
  {{num_trials: {trials}, scheduler: FIFO, searcher: random, hang_timeout: 12, resources_per_trial: {{num_cpus: 1}}}}
"""
FAULTS = {  # fault -> times it happens, class in the journal, words of the cause, state in the end
    "little memory": (1, None, "", "completed"),  # first, so that others begin after it
    "hang in a library": (1, "hang", "no progress for 0:00:12 in happen (sitecustomize.py", "completed"),
    "exception": (9, "exception", "RuntimeError: injected", "failed"),
    "exit 137": (1, "killed", "exit 137", "completed"),
    "crash": (1, "killed", "crashed: Segmentation fault in string_at", "completed"),
    "nan": (1, None, "", "diverged"),
    "oom": (9, "oom", "out of memory", "failed"),
    "data": (9, "data", "data injected; mend it.", "failed"),
    "weights": (9, "weights", "weights injected; mend it.", "failed"),
}
MORE = {
    "none": (0, None, "", "completed"),
    "stopped": (1, "hang", "no sign of life", "completed"),
    "hang": (1, "hang", "in happen (sitecustomize.py", "completed"),
    "host memory": (1, "oom", "MemoryError", "completed"),
    "storage": (3, "storage", "Input/output error", "completed"),
    "killed": (9, "killed", "exit 137", "failed"),
}


def sweep_with(faults, data, folder):
    """The directory of a sweep whose trial number i suffers the i-th fault in its second epoch."""
    (folder / "counts").mkdir()
    (folder / "failing.yaml").write_text(SWEEP.format(data=data, trials=len(faults)))
    plan = {f"{i:04d}": {"fault": fault, "epoch": 2, "times": faults[fault][0]} for i, fault in enumerate(faults)}
    environ = {
        **os.environ,
        "FAULT_PLAN": json.dumps(plan),
        "FAULT_COUNTS": str(folder / "counts"),
        "PYTHONPATH": str(Path(__file__).parent / "inject"),
    }
    command = [sys.executable, ROOT / "launch" / "submit.py", folder / "failing.yaml", "--cluster", "local"]
    done = subprocess.run(
        [*command, "--run-dir", folder / "run"], env=environ, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def check(run, fault, faults):
    times, kind, words, state = faults[fault]
    events = [e for e in read_events(run / "journal.jsonl") if e.get("trial") == f"{list(faults).index(fault):04d}"]
    trial = next(iter(SweepState([*events]).trials.values()))
    assert trial.state == state
    assert {failure["kind"] for failure in trial.failures} == ({kind} if kind else set())
    assert all(words in failure["cause"] and "\n" not in failure["cause"] for failure in trial.failures)
    if kind:
        assert len(trial.failures) == (min(times, CLASSES[kind].retries + 1))
        assert [failure["retry"] for failure in trial.failures][-1] == (state == "completed")
    if state == "completed":
        starts = [event["epoch"] for event in events if event["type"] == "started"]
        assert starts == [0, *[1] * (times if kind else 0)], "it did not go on from its checkpoint"
        assert sorted(trial.last) == [1, 2]
    if state == "failed":
        assert kind in trial.reason


@pytest.fixture(scope="module")
def swept(shards, tmp_path_factory):
    return sweep_with(FAULTS, shards, tmp_path_factory.mktemp("failing"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_class_cause_and_consequence(swept, fault):
    check(swept, fault, FAULTS)


def test_what_fitted_into_memory_is_where_later_trials_begin(swept):
    """From 32 over 16 to 8 images at a time, in the second epoch of the first trial."""
    known = json.loads((swept / "micro_batches.json").read_text())["found"]
    assert [(one["model"], one["device"], one["micro_batch"], one["trial"]) for one in known] == [
        ("test_vit", "cpu", 8, "0000")
    ]
    trials = SweepState([*read_events(swept / "journal.jsonl")]).trials
    pieces = {name: {epoch: row["micro_batch"] for epoch, row in trial.last.items()} for name, trial in trials.items()}
    assert pieces["0000"] == {1: 32, 2: 8}
    assert pieces["0006"] == pieces["0007"] == {1: 8}


def test_table_and_report_say_the_class_and_the_cause(swept):
    command = [sys.executable, ROOT / "launch" / "results.py", swept]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    page = (swept / "report.html").read_text()
    for _, kind, words, state in FAULTS.values():
        if kind and state == "failed":
            assert f"{kind}: " in shown
            assert words in page
        assert f"<td>{kind or 'hang'}</td>" in page


@pytest.fixture(scope="module")
def swept_more(shards, tmp_path_factory):
    return sweep_with(MORE, shards, tmp_path_factory.mktemp("failing_more"))


@pytest.mark.faults
@pytest.mark.parametrize("fault", MORE)
def test_more_faults(swept_more, fault):
    check(swept_more, fault, MORE)
