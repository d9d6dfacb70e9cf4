"""docs/journal.schema.json, applied to journals of real sweeps."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator

from hpo.records import read_events

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "journal.schema.json").read_text())


def breaches(journal: Path) -> list[str]:
    """What in `journal` is not as the schema has it; types and fields that the schema does not know are among that."""
    validator, found = Draft202012Validator(SCHEMA), []
    for event in read_events(journal):
        where = f"event {event['n']} ({event['type']})"
        if event["type"] not in SCHEMA["$defs"]:
            found.append(f"{where}: its type is not in the schema")
            continue
        known = {*SCHEMA["properties"], *SCHEMA["$defs"].get(event["type"], {}).get("properties", {})}
        found += [f"{where}: {error.json_path} {error.message}" for error in validator.iter_errors(event)]
        found += [f"{where}: {name} is not in the schema" for name in event.keys() - known]
    return found
