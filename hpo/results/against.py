"""Sweeps beside each other: best values, effort, and in what the winners differ."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.errors import UsageError
from hpo.results.ledger import hours_text, read_ledger
from hpo.results.read import Results
from hpo.results.wording import duration, metric_format, value_text


def compare_sweeps(sweeps: Sequence[Results]) -> list[list[str]]:
    """Rows of cells, one sweep a column; the first column says what the row is, the last '*' where they differ.

    Raises:
        UsageError: they were judged by different metrics.
    """
    metrics = {(sweep.metric, sweep.mode) for sweep in sweeps}
    if len(metrics) > 1:
        listed = ", ".join(f"{sweep.name}: {sweep.metric}" for sweep in sweeps)
        raise UsageError(f"these sweeps have different metrics ({listed}); their values cannot be compared.")
    write = metric_format(row.value for sweep in sweeps for row in sweep.rows)
    bests = [sweep.best for sweep in sweeps]
    ledgers = [read_ledger(sweep) for sweep in sweeps]
    facts: list[tuple[str, list[str]]] = [
        ("", [sweep.directory.root.name for sweep in sweeps]),
        (f"best {sweeps[0].metric}", [write(best.value) if best else "-" for best in bests]),
        ("best trial", [best.trial if best else "-" for best in bests]),
        ("trial 0", [write(s.default.value) if s.default else "-" for s in sweeps]),
        ("status", [sweep.status for sweep in sweeps]),
        ("trials", [str(len(sweep.rows)) for sweep in sweeps]),
        ("stopped early", [str(sweep.states.get("stopped", 0)) for sweep in sweeps]),
        ("failed", [str(sum(sweep.states.get(s, 0) for s in ("failed", "diverged"))) for sweep in sweeps]),
        ("epochs trained", [str(sum(row.epochs for row in sweep.rows)) for sweep in sweeps]),
        ("time", [duration(sum(attempt.seconds for attempt in sweep.attempts)) for sweep in sweeps]),
        ("hours", [f"{hours_text(ledger.allocated)} {ledger.unit}" for ledger in ledgers]),
    ]
    facts += [(name, [str(sweep.settings.get(name, "-")) for sweep in sweeps]) for name in ("data", "seed")]
    keys = dict.fromkeys(key for s, b in zip(sweeps, bests, strict=True) if b for key in [*s.columns, *s.constants])
    for key in keys:
        facts.append((key, [_setting(sweep, key) for sweep in sweeps]))
    return [[name, *cells, "*" if len(set(cells)) > 1 and name in keys else ""] for name, cells in facts]


def _setting(sweep: Results, key: str) -> str:
    best = sweep.best
    return value_text(best.params.get(key, sweep.constants.get(key))) if best else "-"
