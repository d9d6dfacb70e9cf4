"""Which trials and which columns a person wants to see, and in which order; as CSV for other programs.

A column is `rank`, `trial`, `state`, ... (BASIC below), a metric (`val_loss`), or a searched key, whole (`optim.lr`) or
by its last part (`lr`).
"""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpo.errors import UsageError, nearest
from hpo.results.read import Results, Row

BASIC: dict[str, Callable[[Row], Any]] = {
    "rank": lambda row: row.rank,
    "trial": lambda row: row.trial,
    "number": lambda row: row.number,
    "state": lambda row: row.state,
    "value": lambda row: row.value,
    "best_epoch": lambda row: row.best_epoch,
    "epochs": lambda row: row.epochs,
    "max_epochs": lambda row: row.max_epochs,
    "origin": lambda row: row.origin,
    "seconds": lambda row: round(row.seconds, 1),
    "node": lambda row: row.node,
    "reason": lambda row: row.reason,
}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def column(results: Results, name: str) -> Callable[[Row], Any]:
    """What column `name` holds of a trial.

    Raises:
        UsageError: there is no such column.
    """
    if name in BASIC:
        return BASIC[name]
    if name == results.metric:
        return BASIC["value"]
    for key, shown in results.columns.items():
        if name in (key, shown, key.rpartition(".")[2]):
            return lambda row: row.params.get(key)
    if name in _metric_names(results):
        return lambda row: row.metrics.get(name)
    known = all_columns(results)
    holding = [key for key in known if name in key]  # 'model' of 'model.timm_image.checkpoint_name'
    hint = f" Did you mean {holding[0]!r}?" if holding else nearest(name, [*known, *results.columns.values()])
    raise UsageError(f"no column {name!r}.{hint} There are: {', '.join(known)}.")


def all_columns(results: Results) -> list[str]:
    """Every column: what is known of a trial, then its metrics, then what was searched."""
    basic = [results.metric if name == "value" else name for name in BASIC]
    return [*basic, *_metric_names(results), *results.columns]


def _metric_names(results: Results) -> list[str]:
    """Without those that mean something else here: `lr` is the searched one, not the rate of the last update."""
    taken = {results.metric, "epoch", *BASIC, *(key.rpartition(".")[2] for key in results.columns)}
    return [name for name in dict.fromkeys(name for row in results.rows for name in row.metrics) if name not in taken]


def choose_rows(results: Results, conditions: Iterable[str] = (), order: str = "") -> list[Row]:
    """The trials that meet every one of `conditions` ('state=completed', 'lr<1e-3', 'reason~memory'), by rank or by
    column `order` (a '-' before it: largest first). Trials without a value there come last.

    Raises:
        UsageError: no such column, or what is not a condition.
    """
    rows = list(results.rows)
    for condition in conditions:
        meets = _test(results, condition)
        rows = [row for row in rows if meets(row)]
    if not order:
        return rows
    get = column(results, order.removeprefix("-"))
    valued = [row for row in rows if get(row) is not None]
    valued.sort(key=lambda row: _sortable(get(row)), reverse=order.startswith("-"))
    return valued + [row for row in rows if get(row) is None]


def _sortable(value: Any) -> tuple[int, Any]:
    number = isinstance(value, (int, float))
    return (0, float(value)) if number else (1, str(value))


def _test(results: Results, condition: str) -> Callable[[Row], bool]:
    match = _CONDITION.fullmatch(condition)
    if not match:
        raise UsageError(
            f"--filter takes COLUMN OPERATOR VALUE such as 'lr<1e-3' or 'state=completed', got {condition!r}."
        )
    name, sign, text = match.groups()
    get = column(results, name)
    if sign == "~":
        return lambda row: text.casefold() in str(get(row)).casefold()
    number = _number(text)
    if number is None and sign not in ("=", "!="):
        raise UsageError(f"--filter {condition!r}: {text!r} is not a number; compare texts by =, != or ~.")
    compare = _COMPARE[sign]

    def meets(row: Row) -> bool:
        value = get(row)
        if number is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
            return compare(value, number)
        return compare("-" if value is None else str(value).lower(), text.lower()) if sign in ("=", "!=") else False

    return meets


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def render_csv(results: Results, rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """A line a trial, every digit kept, missing values empty; lists as 'a b'. By default all columns."""
    chosen = list(names) or all_columns(results)
    getters = [column(results, name) for name in chosen]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(chosen)
    for row in rows:
        writer.writerow([" ".join(map(str, v)) if isinstance(v := get(row), (list, tuple)) else v for get in getters])
    return text.getvalue()
