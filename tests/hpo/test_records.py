"""The journal's promises: one writer, whole lines or none, and a state that follows from the events alone."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import JournalError
from hpo.records import FORMAT, Event, Journal, SweepState, read_events, says_ended

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in another process that can import the project."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def write_events(path: Path, events: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    journal = Journal(path)
    for kind, fields in events:
        journal.append(kind, **fields)
    journal.close()
    return journal.events


HEADER = ("sweep", {"name": "s", "metric": "val_accuracy", "mode": "max", "seed": 0, "max_epochs": 3})
ATTEMPT = ("attempt_started", {"attempt": "a1", "job": "1", "host": "h", "nodes": 1})


def suggested(number: int) -> tuple[str, dict[str, Any]]:
    return "suggested", {"trial": f"{number:04d}", "number": number, "params": {"optim.lr": 0.1}, "origin": "random"}


def started(number: int, epoch: int = 0, attempt: str = "a1") -> tuple[str, dict[str, Any]]:
    return "started", {"trial": f"{number:04d}", "attempt": attempt, "node": "n1", "epoch": epoch}


def reported(number: int, epoch: int, value: float, attempt: str = "a1") -> tuple[str, dict[str, Any]]:
    metrics = {"val_accuracy": value}
    return "reported", {"trial": f"{number:04d}", "attempt": attempt, "epoch": epoch, "metrics": metrics}


STORY = [
    HEADER,
    ATTEMPT,
    suggested(0),
    started(0),
    reported(0, 1, 0.3),
    suggested(1),
    started(1),
    reported(1, 1, 0.5),
    ("checkpointed", {"trial": "0001", "epoch": 1, "path": "trials/0001/checkpoint"}),
    (
        "decided",
        {"trial": "0000", "epoch": 1, "rung": 1, "action": "stop", "value": 0.3, "cutoff": 0.5, "rank": 2, "of": 2},
    ),
    ("finished", {"trial": "0000", "state": "stopped", "reason": "ASHA"}),
    ("failed", {"trial": "0001", "attempt": "a1", "kind": "node_lost", "cause": "gone", "retry": True}),
    ("attempt_ended", {"attempt": "a1", "reason": "walltime"}),
]


def test_a_reader_sees_what_the_writer_appended(tmp_path: Path) -> None:
    written = write_events(tmp_path / "journal.jsonl", STORY)
    read = read_events(tmp_path / "journal.jsonl")
    assert read == written
    assert [event["n"] for event in read] == list(range(len(STORY)))
    assert {event["v"] for event in read} == {FORMAT}
    assert [event["type"] for event in read] == [kind for kind, _ in STORY]


def test_the_last_event_alone_says_whether_a_sweep_has_ended(tmp_path: Path) -> None:
    """As the fold of all events does."""
    path = tmp_path / "journal.jsonl"
    assert not says_ended(path)
    path.touch()
    assert not says_ended(path)
    events = [
        ("sweep", {"name": "x" * 9000}),
        ("attempt_started", {"attempt": "a", "job": "7", "host": "h", "nodes": 1}),
        ("attempt_ended", {"attempt": "a", "reason": "all trials have ended"}),
        ("sweep_ended", {"reason": "all trials have ended"}),
        ("attempt_started", {"attempt": "b", "job": "8", "host": "h", "nodes": 1}),
    ]
    journal = Journal(path)
    for event in events:
        journal.append(event[0], **event[1])
        assert says_ended(path) is (SweepState(journal.events).ended is not None) is (event[0] == "sweep_ended")
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(path.read_bytes() + b'{"v": 1, "n": ')
        assert says_ended(torn) is says_ended(path)
    journal.close()


def test_no_journal_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "journal.jsonl") == []


def test_only_the_owner_may_read_a_new_journal(tmp_path: Path) -> None:
    write_events(tmp_path / "journal.jsonl", [HEADER])
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_reopened_journal_goes_on_with_the_next_number(tmp_path: Path) -> None:
    write_events(tmp_path / "journal.jsonl", STORY[:3])
    journal = Journal(tmp_path / "journal.jsonl")
    assert len(journal.events) == 3
    assert journal.append("sweep_ended", reason="done")["n"] == 3
    journal.close()
    assert [event["n"] for event in read_events(tmp_path / "journal.jsonl")] == [0, 1, 2, 3]


def test_numbers_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    metrics = {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}}
    write_events(path, [("reported", {"trial": "0000", "epoch": 1, "metrics": metrics})])
    assert read_events(path)[0]["metrics"] == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_cut_anywhere_a_journal_keeps_its_whole_lines_and_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_events(path, STORY[:4])
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        assert len(read_events(path)) == whole
        journal = Journal(path)
        journal.append("sweep_ended", reason="after the cut")
        journal.close()
        assert [event["n"] for event in read_events(path)] == list(range(whole + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], lines[1][:20], *lines[2:]], "line 2 is damaged"),
        (lambda lines: [lines[0], b"\0" * 30, *lines[2:]], "line 2 is damaged"),
        (lambda lines: [lines[0], b"17", *lines[2:]], "line 2 is not an event"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 holds event 2"),
        (lambda lines: [lines[0], lines[1], lines[1], *lines[2:]], "line 3 holds event 1"),
        (lambda lines: [lines[0].replace(b'"v": 1', b'"v": 2'), *lines[1:]], "line 1 has format 2"),
    ],
)
def test_damage_before_the_last_line_is_an_error_with_its_place(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "journal.jsonl"
    write_events(path, STORY[:4])
    good = path.read_bytes()
    path.write_bytes(b"".join(line + b"\n" for line in change(good.splitlines())))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=message):
        read_events(path)
    with pytest.raises(JournalError, match=message) as caught:
        Journal(path)
    assert path.read_bytes() == before
    path.write_bytes(good)
    Journal(path).close()  # the failure, though its traceback is still held, has let go of the lock
    assert caught.traceback


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(HEADER[0], **HEADER[1])
    journal.append("attempt_started", attempt="a7", job="12", host="node17", nodes=1)
    code = "import sys; from pathlib import Path; from hpo.records import Journal; Journal(Path(sys.argv[1]))"
    second = run_python(code, str(path))
    assert second.returncode != 0
    assert "is being written by attempt a7 on node17" in second.stderr
    journal.append("attempt_ended", attempt="a7", reason="done")
    journal.close()
    assert run_python(code, str(path)).returncode == 0
    assert len(read_events(path)) == 3


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from hpo.records import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append('sweep', metric='m', mode='max')\n"
        "print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        with pytest.raises(JournalError, match="another process"):
            Journal(path)
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
    journal = Journal(path)
    assert len(journal.events) == 1
    journal.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on the file's size does here what a quota does: the write ends in its middle."""
    path = tmp_path / "journal.jsonl"
    write_events(path, STORY)
    limit = path.stat().st_size + 20
    code = (
        "import resource, signal, sys; from pathlib import Path; from hpo.records import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); journal = Journal(Path(sys.argv[1]))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "try: journal.append('sweep_ended', reason='x' * 100)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "journal.append('sweep_ended', reason='space again')"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = run_python(code, str(path))
    assert run.returncode == 0, run.stderr
    assert "JournalError" in run.stdout
    assert "cannot be written (File too large)" in run.stdout
    events = read_events(path)
    assert len(events) == len(STORY) + 1
    assert events[-1]["reason"] == "space again"


def test_events_of_a_later_minor_version_are_passed_over(tmp_path: Path) -> None:
    events = write_events(tmp_path / "journal.jsonl", [*STORY, ("sang_a_song", {"verse": 1})])
    assert SweepState(events).trials.keys() == {"0000", "0001"}


def as_json(state: SweepState) -> str:
    trials = {trial.id: vars(trial) for trial in state.trials.values()}
    return json.dumps([state.header, trials, state.attempts, state.ended], default=str)


def test_the_state_depends_on_the_events_and_not_on_how_they_came(tmp_path: Path) -> None:
    events = write_events(tmp_path / "journal.jsonl", STORY)
    for cut in range(len(events) + 1):
        state = SweepState(events[:cut])
        for event in events[cut:]:
            state.apply(event)
        assert as_json(state) == as_json(SweepState(events))
        assert state.events == len(events)


def test_what_a_story_comes_to(tmp_path: Path) -> None:
    state = SweepState(write_events(tmp_path / "journal.jsonl", STORY))
    first, second = state.trials["0000"], state.trials["0001"]
    assert (first.state, first.reason, first.best, first.epochs) == ("stopped", "ASHA", (1, 0.3), 1)
    assert first.decisions[0]["cutoff"] == 0.5
    assert (second.state, second.checkpoint) == ("interrupted", (1, "trials/0001/checkpoint"))
    assert second.failures[0]["kind"] == "node_lost"
    assert [trial.id for trial in state.ranking()] == ["0001", "0000"]
    assert state.attempts[0]["ended"]["reason"] == "walltime"
    assert state.ended is None


def test_a_resumed_trial_keeps_first_and_last_reports_apart(tmp_path: Path) -> None:
    again = [("attempt_started", {"attempt": "a2", "job": "2", "host": "h", "nodes": 1}), started(0, 1, "a2")]
    events = [HEADER, ATTEMPT, suggested(0), started(0), reported(0, 1, 0.1), reported(0, 2, 0.2), *again]
    events.append(reported(0, 2, 0.25, "a2"))
    trial = SweepState(write_events(tmp_path / "journal.jsonl", events)).trials["0000"]
    assert (trial.first[2], trial.last[2]) == ({"val_accuracy": 0.2}, {"val_accuracy": 0.25})
    assert trial.epochs == 2


@pytest.mark.parametrize("ending", [("attempt_ended", {"attempt": "a1", "reason": "walltime"}), ATTEMPT])
def test_what_ran_when_an_attempt_went_waits_to_be_resumed(tmp_path: Path, ending: tuple[str, dict[str, Any]]) -> None:
    events = [HEADER, ATTEMPT, suggested(0), started(0), suggested(1), ending]
    state = SweepState(write_events(tmp_path / "journal.jsonl", events))
    assert [trial.state for trial in state.trials.values()] == ["interrupted", "suggested"]


@pytest.mark.parametrize(("mode", "best"), [("max", "0001"), ("min", "0000")])
def test_the_incumbent_is_the_best_and_of_equals_the_earlier(tmp_path: Path, mode: str, best: str) -> None:
    header = ("sweep", {**HEADER[1], "mode": mode})
    reports = [
        reported(0, 1, 0.1),
        reported(1, 1, 0.9),
        reported(2, 1, 0.9),
        reported(3, 1, 0.1),
        reported(4, 1, math.nan),
    ]
    events = [header, ATTEMPT, *(suggested(number) for number in range(5)), *reports]
    state = SweepState(write_events(tmp_path / "journal.jsonl", events))
    incumbent = state.incumbent()
    assert incumbent is not None
    assert incumbent.id == best
    assert "0004" not in [trial.id for trial in state.ranking()]


def test_a_best_value_of_an_earlier_epoch_is_kept(tmp_path: Path) -> None:
    events = [HEADER, ATTEMPT, suggested(0), started(0), reported(0, 1, 0.4), reported(0, 2, 0.6), reported(0, 3, 0.5)]
    assert SweepState(write_events(tmp_path / "journal.jsonl", events)).trials["0000"].best == (2, 0.6)


def test_each_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append("suggested", **suggested(number)[1])
        assert len(read_events(path)) == number + 1
        assert abs(read_events(path)[-1]["t"] - time.time()) < 60
    journal.close()
    assert [found.name for found in tmp_path.iterdir()] == ["journal.jsonl"]
