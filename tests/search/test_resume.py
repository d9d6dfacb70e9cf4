"""Simulated sweeps of 1 and 8 workers, killed after every event and resumed: what follows is what would have followed.

No training and no Ray: workers take times drawn at random, trials fail by rules. With one worker, and with
`deterministic` however the times come, the resumed sweep is the unbroken one to its end. With eight workers and none of
that, it is for the same later reports.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
import simulated_sweep
from course import course
from simulated_sweep import Enough, begin, run, settings

from hpo.errors import UsageError
from hpo.records import read_events
from hpo.tuneconfig import parse_tune

TYPES = ("stopping", "promotion", "auto")
FAR = 10  # every so many cuts the sweep is followed to its end, after the others for this many events


def run_again(path, config, workers, later, limit=None):
    """An attempt that is told what the events `later` tell, in their order."""
    journal, sweep = begin(path, config, limit)
    known = {event["trial"]: event["epoch"] for event in journal.events if event["type"] == "reported"}
    saved = {event["trial"]: event["epoch"] for event in journal.events if event["type"] == "checkpointed"}
    busy: set[str] = set()
    try:
        sweep.start_attempt(job="", host="other", nodes=1)
        for event in [*later, {"type": "end"}]:
            while len(busy) < workers and (trial := sweep.next_trial()):
                sweep.start_trial(trial.id, "n")
                busy.add(trial.id)
                if known.get(trial.id, 0) > saved.get(trial.id, 0):  # the checkpoint was ahead of the journal
                    saved[trial.id] = known[trial.id]
            if event["type"] == "failed":
                sweep.fail_trial(event["trial"], event["kind"], event["cause"])
                busy.discard(event["trial"])
            elif event["type"] == "reported":
                assert event["trial"] in busy, "it is not at work"
                path = f"c{event['epoch']}"
                if not sweep.report(event["trial"], event["epoch"], event["metrics"], path, opened=event.get("opened")):
                    busy.discard(event["trial"])
        assert sweep.done
        sweep.end_attempt("all trials have ended")
    except Enough:
        pass
    journal.close()


def kill_everywhere(path, config, resume):
    """Cuts the journal at `path` after each event, resumes by resume(path, place, limit), compares."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = course(read_events(path))
    for place in range(1, len(lines)):
        killed = path.with_name("killed")
        killed.write_bytes(b"".join(lines[:place]))
        limit = None if place % FAR == 0 else FAR
        resume(killed, place, limit)
        found = course(read_events(killed))
        assert found == whole[: len(found)], f"killed after event {place}"
        assert limit or found == whole, f"killed after event {place}"


def assert_everything_happened(path, kind):
    events = read_events(path)
    found = course(events)
    assert {row[2] for row in found if row[0] == "finished"} == {"completed", "stopped", "diverged", "failed"}
    assert {row[3] for row in found if row[0] == "suggested"} == {"default", "user", "random", "model"}
    assert {e["kind"] for e in events if e["type"] == "failed"} == {"exception", "killed"}
    assert kind == "stopping" or any(e["type"] == "reviewed" for e in events)


@pytest.mark.parametrize("kind", TYPES)
def test_one_worker(tmp_path, kind):
    config = settings(asha_type=kind)
    run(tmp_path / "whole", config, 1, pace=0)
    assert_everything_happened(tmp_path / "whole", kind)
    events = read_events(tmp_path / "whole")

    def resume(path, place, limit):
        if kind == "auto":  # times decide whether it pauses
            run_again(path, config, 1, events[place:], limit)
        else:
            run(path, config, 1, pace=place, limit=limit)

    kill_everywhere(tmp_path / "whole", config, resume)


@pytest.mark.parametrize("kind", TYPES)
def test_eight_workers_and_the_same_later_reports(tmp_path, kind):
    config = settings(asha_type=kind)
    run(tmp_path / "whole", config, 8, pace=0)
    assert_everything_happened(tmp_path / "whole", kind)
    events = read_events(tmp_path / "whole")
    kill_everywhere(
        tmp_path / "whole", config, lambda path, place, limit: run_again(path, config, 8, events[place:], limit)
    )


@pytest.mark.parametrize("kind", TYPES)
def test_eight_slots_in_lockstep(tmp_path, kind):
    """After the kill there are other times, and sometimes fewer workers or more."""
    config = settings(asha_type=kind, deterministic=8)
    run(tmp_path / "whole", config, 8, pace=0)
    assert_everything_happened(tmp_path / "whole", "stopping" if kind == "auto" else kind)
    kill_everywhere(
        tmp_path / "whole", config,
        lambda path, place, limit: run(path, config, (8, 3, 1, 20)[place % 4], pace=place, limit=limit),
    )  # fmt: skip


@pytest.mark.parametrize("rule", [{"target": 0.7}, {"plateau": 5}], ids=str)
def test_rules_that_end_a_sweep_in_lockstep(tmp_path, rule):
    config = settings(deterministic=4, searcher="random", **rule)
    run(tmp_path / "whole", config, 4, pace=0)
    assert any(row[0] == "ending" for row in course(read_events(tmp_path / "whole")))
    kill_everywhere(
        tmp_path / "whole", config, lambda path, place, limit: run(path, config, 3, pace=place, limit=limit)
    )


def test_without_lockstep_times_do_decide(tmp_path):
    """What `deterministic` is for."""
    for pace in (0, 1):
        run(tmp_path / f"{pace}", settings(), 8, pace)
        run(tmp_path / f"step-{pace}", settings(deterministic=8), 8, pace)
    first, second, *steps = [course(read_events(tmp_path / name)) for name in ("0", "1", "step-0", "step-1")]
    assert first != second
    assert steps[0] == steps[1]


def test_no_worker_idles_in_lockstep_while_a_slot_has_work(tmp_path):
    """Two workers for eight slots: a trial that waits for its turn holds no place."""
    run(tmp_path / "j", settings(deterministic=8, searcher="random"), 2, pace=0)
    events = read_events(tmp_path / "j")
    first = [e["trial"] for e in events if e["type"] == "reported"][:8]
    assert sorted(first) == [f"{number:04d}" for number in range(8)]


def test_lockstep_is_not_for_guides_of_ray_tune():
    with pytest.raises(UsageError, match=r"deterministic: 4 is for the searchers bayes, random"):
        parse_tune({"deterministic": 4, "scheduler": {"class": "ray.tune.schedulers.MedianStoppingRule"}})
    with pytest.raises(UsageError, match="deterministic must be a whole number of at least 1"):
        parse_tune({"deterministic": 0})


def test_the_process_that_decides_is_killed_at_random_moments(tmp_path):
    """SIGKILL after a few more events each time: what a reader has seen stays, and the sweep goes the same way."""
    config = settings(deterministic=8, asha_type="promotion")
    run(tmp_path / "whole", config, 8, pace=0)
    path, rng, kills = tmp_path / "killed", random.Random(3), 0
    while not any(event["type"] == "sweep_ended" for event in read_events(path)):
        command = [sys.executable, simulated_sweep.__file__, str(path), str(kills)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        known, more, end = len(read_events(path)), rng.randint(5, 50), time.monotonic() + 240
        while process.poll() is None and len(read_events(path)) < known + more:
            assert time.monotonic() < end
            time.sleep(0.002)
        seen = path.read_bytes()
        process.send_signal(signal.SIGKILL)
        assert process.communicate(timeout=60)[1] == b""
        kills += process.returncode == -signal.SIGKILL
        assert path.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
    assert kills >= 8
    assert course(read_events(path)) == course(read_events(tmp_path / "whole"))
