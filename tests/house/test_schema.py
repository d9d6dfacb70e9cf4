"""The published schema of the journal and the words in hpo/records.py say the same."""

from __future__ import annotations

import json
import re

from journal_schema import SCHEMA, breaches
from jsonschema import Draft202012Validator

from hpo import records


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["v"]["const"] == records.FORMAT


def test_it_has_the_event_types_of_the_records_and_their_fields():
    lines = re.findall(r"^    (\w+)  +(\S.*?)(?:  .*)?$", str(records.__doc__), re.MULTILINE)
    described = {kind: set(fields.split()) for kind, fields in lines}
    assert described.keys() == SCHEMA["$defs"].keys()
    optional = {"reported": {"end", "opened"}, "suggested": {"rung", "alone"}}  # described in words there
    for kind, fields in described.items():
        assert fields == SCHEMA["$defs"][kind]["properties"].keys() - optional.get(kind, set()), kind


def test_what_does_not_fit_is_found(tmp_path):
    path = tmp_path / "journal.jsonl"
    frame = {"v": 1, "t": 1.5}
    events = [
        {**frame, "n": 0, "type": "suggested", "trial": "0000", "number": 0, "params": {}, "origin": "the stars"},
        {**frame, "n": 1, "type": "started", "trial": "0000", "attempt": "a", "epoch": -1, "mood": "good"},
        {**frame, "n": 2, "type": "sung"},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = "\n".join(breaches(path))
    unknown = "event 2 (sung): its type is not in the schema"
    for words in (
        "'the stars' is not one of",
        "-1 is less than the minimum",
        "mood is not in the schema",
        unknown,
    ):
        assert words in found
