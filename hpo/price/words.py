"""Ranges and times in words."""

from __future__ import annotations

from hpo.price.forecast import Forecast, Range
from hpo.results.wording import duration, moment


def span(seconds: Range) -> str:
    """'5 min 10 s to 8 min 00 s (middle 6 min 30 s)'."""
    return f"{duration(seconds.low)} to {duration(seconds.high)} (middle {duration(seconds.middle)})"


def between(values: Range, form: str) -> str:
    """'3 to 5'."""
    return f"{values.low:{form}} to {values.high:{form}}"


def finish_line(found: Forecast | None, by: float, most: int, tried: list[Forecast]) -> str:
    """How many hosts are done by `by`, Unix seconds; `found` None: not even `most` of them."""
    if found is not None:
        return f"by {moment(by)}  {found.nodes} hosts: {span(found.wall_s)}"
    return (f"by {moment(by)}  not with {most} hosts, which take {span(tried[-1].wall_s)}: lower num_trials or "
            "max_epochs, or allow more hosts with --most-nodes")  # fmt: skip
