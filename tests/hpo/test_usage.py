"""GPU-hours and epochs of attempts, from the journal alone."""

from __future__ import annotations

import pytest

from hpo.usage import Usage, origin


def attempt(name, t, job="7", **more):
    return {"type": "attempt_started", "attempt": name, "job": job, "t": t, **more}


def joined(worker, t, since, gpus):
    return {"type": "worker_joined", "worker": worker, "t": t, "since": since, "gpus": gpus}


def test_gpu_hours_run_from_the_start_of_the_job_to_the_end():
    events = [
        attempt("a", 1000),
        joined("w0", 1010, since=990, gpus=2),
        joined("w1", 1020, since=1010, gpus=4),
        {"type": "worker_left", "worker": "w1", "t": 1110, "reason": "it was lost"},
        {"type": "attempt_ended", "t": 1190, "reason": "r"},
    ]
    assert Usage(events[:2]).gpu_hours(now=1090) == pytest.approx(2 * 100 / 3600)
    assert Usage(events[:2]).gpu_hours() == pytest.approx(2 * 20 / 3600)
    usage = Usage(events)
    assert usage.gpu_hours() == usage.gpu_hours(now=9999) == pytest.approx((2 * 200 + 4 * 100) / 3600)
    assert usage.attempts[0].reason == "r"


def test_a_killed_attempt_counts_up_to_its_last_event():
    events = [attempt("a", 0), joined("w", 10, since=0, gpus=1), {"type": "used", "t": 300}, attempt("b", 5000)]
    assert Usage(events).gpu_hours(now=5100) == pytest.approx(300 / 3600)


def test_an_attempt_that_waited_for_workers_in_vain_is_told_from_one_that_failed():
    end = {"type": "attempt_ended", "reason": "r"}
    waited = Usage([attempt("a", 0, mode="pool"), {**end, "t": 500}])
    failed = Usage([attempt("a", 0, mode="pool"), {**end, "t": 5}])
    gang = Usage([attempt("a", 0, mode="gang"), {**end, "t": 500}])
    assert [usage.attempts[0].waited for usage in (waited, failed, gang)] == [True, False, False]


def test_attempts_of_one_job_or_local_run_have_one_origin():
    assert origin("12", "12.0.abc-1") == "12"
    assert origin("", "local.abc") == origin("", "local.abc-2") == "local.abc"
