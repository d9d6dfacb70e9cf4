"""A search's results as a predictor gives them: a table for people, and plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.results.read import Results

if TYPE_CHECKING:
    import pandas as pd

_ABOUT = ("best_epoch", "epochs", "state", "reason", "seconds")


def board_of(results: Results, value: str) -> pd.DataFrame:
    """One row a trial, best first; `value`: the name of the column of its best value."""
    import pandas as pd

    rows = []
    for row in results.rows:
        about = {"rank": row.rank, "trial": row.trial, value: row.value, **{n: getattr(row, n) for n in _ABOUT}}
        rows.append({**about, **{name: row.params.get(key) for key, name in results.columns.items()}})
    return pd.DataFrame(rows)


def trials_of(results: Results) -> list[dict[str, Any]]:
    """Every trial in order, with its parameters, its curve [(epoch, value)] and what became of it."""
    return [
        {"trial": row.trial, "params": dict(row.params), "curve": list(row.curve), "value": row.value,
         "best_epoch": row.best_epoch, "state": row.state, "reason": row.reason, "seconds": row.seconds}
        for row in sorted(results.rows, key=lambda row: row.number)
    ]  # fmt: skip
