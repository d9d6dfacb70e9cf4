"""The end of a log: a trial's, or the driver's."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from hpo.errors import UsageError
from hpo.results.read import Results, Row


def log_lines(results: Results, row: Row | None, most: int) -> list[str]:
    """The last `most` lines of trial `row`'s log, or of the newest attempt's driver; first which file it is.

    Raises:
        UsageError: there is none.
    """
    path = results.directory.trial(row.trial) / "log.txt" if row else _driver_log(results)
    if path is None:
        raise UsageError(f"no attempt of {results.directory.root} has started yet, so there is no log.")
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            lines = deque((line.rstrip("\n") for line in stream), maxlen=most)
    except FileNotFoundError:
        who = "trial" if row else "driver"
        raise UsageError(
            f"{path} does not exist: the {who} has not started, or the copy was made without logs."
        ) from None
    return [f"# {path}", *("".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in lines)]


def _driver_log(results: Results) -> Path | None:
    attempts = results.attempts
    return results.directory.attempt(attempts[-1].id) / "driver.log" if attempts else None
