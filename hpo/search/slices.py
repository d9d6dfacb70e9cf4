"""Optuna's slice plot arranged to be read: three keys a row, names of choices upright, powers of ten as people write
them. Optuna sets all keys in one row, where more than a few lie on top of each other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from hpo.results.table import short_middle

_COLUMNS = 3
_ROW, _BELOW = 275, 90  # pixels of a row; of them for tick labels and title below the plot
_GAP = 0.05  # between plots of a row, as a share of the figure's width
_LETTERS = 44  # that fit below one plot, side by side
_MOST_UPRIGHT = 5  # choices; the names of more are set at an angle


def arrange_slices(figure: dict[str, Any]) -> dict[str, Any]:
    """A Plotly figure as JSON, with the axes x, x2, ... and y, y2, ..., one pair a key; changed and given back."""
    layout = figure["layout"]
    numbers = sorted(int(name[5:] or 1) for name in layout if name.startswith("xaxis"))
    columns = min(_COLUMNS, len(numbers))
    rows = -(-len(numbers) // columns)
    for place, number in enumerate(numbers):
        suffix = "" if number == 1 else str(number)
        x, y = layout[f"xaxis{suffix}"], layout[f"yaxis{suffix}"]
        row, column = divmod(place, columns)
        width = (1 + _GAP) / columns
        x["domain"] = [column * width, (column + 1) * width - _GAP]
        y["domain"] = [1 - (row + 1 - _BELOW / _ROW) / rows, 1 - row / rows]
        y["showticklabels"] = column == 0
        if column == 0:
            y["title"] = layout["yaxis"].get("title")
        traces = [trace for trace in figure["data"] if trace.get("xaxis", "x") == f"x{suffix}"]
        _write_ticks(x, traces)
    layout |= {"height": rows * _ROW + 50, "margin": {"l": 70, "r": 50, "t": 40, "b": 10}}
    return figure


def _write_ticks(axis: dict[str, Any], traces: Sequence[dict[str, Any]]) -> None:
    title = {**axis.get("title", {}), "standoff": 8}
    axis |= {"automargin": False, "exponentformat": "e", "nticks": 6, "tickangle": 0, "tickfont": {"size": 11},
             "title": title}  # fmt: skip
    if axis.get("type") == "category":
        _write_choices(axis, traces)
    elif axis.get("type") == "log":
        values = [value for trace in traces for value in trace["x"] if value]
        if values and math.log10(max(values) / min(values)) >= 1:
            axis |= {"dtick": 1}  # powers of ten alone


def _write_choices(axis: dict[str, Any], traces: Sequence[dict[str, Any]]) -> None:
    """The choices' names without Optuna's quotes, in lines that fit side by side."""
    choices = axis.get("categoryarray") or list(dict.fromkeys(name for trace in traces for name in trace["x"]))
    upright = len(choices) <= _MOST_UPRIGHT
    room = _LETTERS // max(len(choices), 1)
    names = {choice: _lines(str(choice).strip("'"), room) if upright else short_middle(str(choice).strip("'"), 16)
             for choice in choices}  # fmt: skip
    if len(set(names.values())) < len(names):  # two names differ only in what was left out
        names = {choice: str(choice).strip("'") for choice in choices}
    for trace in traces:
        trace["x"] = [names[value] for value in trace["x"]]
    axis |= {"categoryarray": list(names.values()), "tickangle": 0 if upright else -45}


def _lines(name: str, room: int) -> str:
    """`name` broken at its joints into lines of at most `room` letters where that can be."""
    lines = [""]
    for piece in re.findall(r"[^_./-]*[_./-]?", name):
        if lines[-1] and len(lines[-1] + piece) > room:
            lines.append("")
        lines[-1] += piece
    return "<br>".join(lines)
