"""What a model knew when it suggested a trial: nothing of it is stored, the journal before the suggestion has it."""

from __future__ import annotations

from collections.abc import Callable

from hpo.failures import LEARNT
from hpo.results.read import Results, Row
from hpo.results.wording import count

_SHOWN = 10  # trials of a rung that are listed


def describe_evidence(results: Results, row: Row, write: Callable[[float | None], str]) -> list[str]:
    """The observations behind `row`, a line a rung, each trial at the highest rung that it had come to by then; and
    who was at work. [] when no model suggested it, or an older slurmtune did not say which rung it looked at."""
    if (least := row.rung) is None:
        return []
    before = row.suggested_at
    others = [other for other in results.rows if other.suggested_at < before and not _barred(other, before)]
    known = {other.trial: _values(other, before) for other in others}
    lines = []
    for rung in range(max(map(len, known.values()), default=0), least - 1, -1):
        members = [(values[-1], trial) for trial, values in known.items() if len(values) == rung]
        if members:
            lines.append(f"  It knew {count(len(members), 'trial')} at rung {rung}: {_list(members, results, write)}.")
    earlier = [] if row.alone else results.settings.get("earlier", {}).get("observations", [])
    if compared := sum(len(old["values"]) >= least for old in earlier):
        lines.append(f"  It knew {count(compared, 'trial')} of earlier sweeps, given by warm_start.")
    barred = sorted(other.trial for other in results.rows if _barred(other, before))
    if barred:
        lines.append(f"  It kept away from what cannot be trained: {_cut(barred)}.")
    working = [other.trial for other in others if not known[other.trial] and not _gave_up(other, before)]
    if working:
        lines.append(f"  Without a value then: {_cut(sorted(working))}.")
    return lines


def _values(row: Row, before: int) -> list[float | None]:
    """At each rung it had come to, lowest first, by event `before`."""
    return [d.get("value") for d in row.decisions if d["type"] == "decided" and d["n"] < before]


def _barred(row: Row, before: int) -> bool:
    """Whether it had failed of its configuration by event `before`."""
    return _gave_up(row, before) and row.failures[-1]["kind"] in LEARNT


def _gave_up(row: Row, before: int) -> bool:
    return any(not failure.get("retry") and failure["n"] < before for failure in row.failures)


def _list(members: list[tuple[float | None, str]], results: Results, write: Callable[[float | None], str]) -> str:
    sign = -1 if results.maximise else 1
    ordered = sorted(members, key=lambda m: (m[0] is None, sign * (m[0] or 0.0), m[1]))
    return _cut([f"{'not finite' if value is None else write(value)} ({trial})" for value, trial in ordered])


def _cut(words: list[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
