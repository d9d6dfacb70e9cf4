"""When another attempt may follow, and when it is enough."""

from __future__ import annotations

import pytest

from hpo.cluster.terms import Terms, fruitless, read_terms, spent
from hpo.errors import UsageError
from hpo.usage import Usage


def attempts(*epochs, job="7", mode="gang", seconds=500):
    events, t = [], 0
    for count in epochs:
        events.append({"type": "attempt_started", "attempt": f"{job}.{t}", "job": job, "t": t, "mode": mode})
        events += [{"type": "reported", "t": t + 1}] * count
        events.append({"type": "attempt_ended", "t": t + seconds, "reason": "stopped on request (walltime)"})
        t += 1000
    return events


def test_three_attempts_without_an_epoch_are_enough():
    assert not fruitless(Usage(attempts(0, 0)), "7")
    assert not fruitless(Usage(attempts(0, 0, 1)), "7")
    assert not fruitless(Usage(attempts(0, 1, 0, 0)), "7")
    why = fruitless(Usage(attempts(5, 0, 0, 0)), "7")
    assert "3 attempts in a row brought no new epoch" in why
    assert "walltime" in why


def test_a_persons_resume_starts_the_count_anew():
    usage = Usage([*attempts(0, 0, 0), *attempts(0, 0, job="8")])
    assert not fruitless(usage, "8")
    assert not fruitless(usage, "9")


def test_waiting_for_the_queue_is_not_held_against_a_pool():
    assert not fruitless(Usage(attempts(0, 0, 0, mode="pool")), "7")
    assert fruitless(Usage(attempts(0, 0, 0, mode="pool", seconds=5)), "7")


def test_limits_end_it_with_the_reason():
    usage = Usage(attempts(1, 1))
    assert not spent(usage, Terms())
    assert not spent(usage, Terms(max_attempts=3))
    assert "max_attempts 2 is reached" in spent(usage, Terms(max_attempts=2))
    assert not spent(usage, Terms(time_limit=1001))
    assert "time_limit of 1000 s is over" in spent(usage, Terms(time_limit=1000))  # 500 s of two attempts
    assert "time_limit" in spent(Usage(attempts(1)[:2]), Terms(time_limit=30), now=30)
    begun = [*attempts(1)[:1], {"type": "worker_joined", "worker": "w", "t": 0, "since": 0, "gpus": 4}]
    assert not spent(Usage(begun), Terms(max_gpu_hours=1), now=899)
    assert "max_gpu_hours 1 is spent" in spent(Usage(begun), Terms(max_gpu_hours=1), now=901)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mode": "pol"}, "Did you mean 'pool'"),
        ({"max_attempts": "0"}, "--max-attempts must be a whole number of at least 1"),
        ({"max_attempts": True}, "--max-attempts"),
        ({"max_gpu_hours": "-1"}, "--max-gpu-hours must be a number above 0, got '-1'"),
        ({"max_gpu_hours": "inf"}, "--max-gpu-hours"),
        ({"max_replacements": 1.5}, "--max-replacements"),
        ({"head_time": "soon"}, "SLURM's forms"),
    ],
)
def test_terms_that_make_no_sense_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        Terms.from_words(words)


def test_terms_survive_the_trip_through_the_directory():
    terms = Terms(mode="pool", max_gpu_hours=2.5).merged(Terms(max_attempts=3))
    assert read_terms({"terms": terms.to_json()}) == terms
    assert read_terms({}) == Terms()
    assert terms.pool
