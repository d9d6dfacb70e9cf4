"""The constraints of a sweep file."""

from __future__ import annotations

import pytest

from hpo.errors import UsageError
from hpo.measures import parse_constraints


def test_limits_are_numbers_above_zero():
    assert parse_constraints(None) == {}
    assert parse_constraints({"parameters": 5_000_000, "latency_ms": 2.5}) == {"parameters": 5e6, "latency_ms": 2.5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameter": 1}, "nothing measures 'parameter'. Did you mean 'parameters'?"),
        ({"parameters": 0}, "constraints.parameters must be a number above 0, got 0."),
        ({"parameters": True}, "got True"),
        ({"latency_ms": "fast"}, "got 'fast'"),
        (["parameters"], "constraints must map parameters or latency_ms"),
    ],
)
def test_mistakes_are_told(given, words):
    with pytest.raises(UsageError) as caught:
        parse_constraints(given)
    assert words in str(caught.value)
