"""A trial by what a person calls it."""

from __future__ import annotations

from hpo.errors import UsageError, nearest
from hpo.results.read import Results, Row


def find_row(results: Results, trial: str) -> Row:
    """The trial of that id or number: '7' is '0007', 'best' the best one.

    Raises:
        UsageError: there is none.
    """
    if trial == "best" and results.best:
        return results.best
    for row in results.rows:
        if trial == row.trial or (trial.isdecimal() and int(trial) == row.number):
            return row
    hint = nearest(trial, [row.trial for row in results.rows])
    raise UsageError(f"there is no trial {trial!r}; the sweep has {len(results.rows)}, from 0 on.{hint}")
