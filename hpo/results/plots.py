"""The report's plots as inline SVG: drawn from results alone, coloured by the page's style sheet.

A trial's state is the class of its mark; the page says which colour that is, in light and in dark. Titles appear
where the mouse rests. All plots share one size, small enough to be read on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from hpo.results.read import Results, Row
from hpo.results.wording import count, metric_format, value_text

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 468, 34, 262  # of the plotted area
_MOST_POINTS = 100  # of one learning curve
UNITS = ((3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class Axis:
    """Data from `low` to `high` on pixels from `start` to `end`; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    beyond: int = 0  # values that lie outside

    def place(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the axis."""
        rough = (self.high - self.low) / about
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def value_axis(values: Sequence[float], maximise: bool) -> Axis:
    """The vertical axis. A few very bad values (a loss of 1e6) must not flatten the rest: they go to the edge."""
    ordered = sorted(values, reverse=maximise)
    best, worst = ordered[0], ordered[-1]
    usual = ordered[int(0.9 * (len(ordered) - 1))]
    beyond = 0
    if abs(worst - best) > 4 * abs(usual - best) > 0:
        worst = usual + 0.1 * (usual - best)
        beyond = sum(value < worst if maximise else value > worst for value in values)
    margin = 0.05 * abs(worst - best) or 0.1 * abs(best) or 0.5
    return Axis(min(best, worst) - margin, max(best, worst) + margin, _BOTTOM, _TOP, beyond)


def plot_trials(results: Results) -> str:
    """Each trial's value by its number, and the best so far as a line."""
    valued = sorted((row.number, row.value, row) for row in results.rows if row.value is not None)
    if not valued:
        return ""
    x = Axis(-0.5, valued[-1][0] + 0.5, _LEFT, _RIGHT)
    y = value_axis([value for _, value, _ in valued], results.maximise)
    label = _labels(results)
    marks, steps, best = [], [], None
    for number, value, row in valued:
        kind, radius = ("best", 5) if row is results.best else (row.state, 3)
        place = x.place(number), y.place(value)
        circle = f'<circle class="{kind}" cx="{place[0]:g}" cy="{place[1]:g}" r="{radius}">'
        # a dot for the mouse only: with the keyboard the table is nearer than a thousand dots
        marks.append(f'<a href="#t{escape(row.trial)}" tabindex="-1">{circle}<title>{label(row)}</title></circle></a>')
        if best is None or (value > best if results.maximise else value < best):
            best = value
            steps.append(place)
    body = [_steps(steps, x.place(valued[-1][0])), *marks]
    return _figure("Value of each trial and the best so far", _frame(x, y, "trial", results.metric), body)


def plot_front(results: Results, objective: str, ahead: Sequence[Row]) -> str:
    """Each trial's value by one of its other objectives; those `ahead`, on the Pareto front, are marked."""
    valued = [(float(cost), row.value, row) for row in results.rows
              if row.value is not None and (cost := row.metrics.get(objective)) is not None]  # fmt: skip
    if not valued:
        return ""
    costs = [cost for cost, _, _ in valued]
    margin = 0.05 * (max(costs) - min(costs)) or 0.1 * max(costs) or 0.5
    x = Axis(min(costs) - margin, max(costs) + margin, _LEFT, _RIGHT)
    y = value_axis([value for _, value, _ in valued], results.maximise)
    label = _labels(results)
    marks = []
    for cost, value, row in valued:
        kind, radius = ("best", 5) if row in ahead else (row.state, 3)
        circle = f'<circle class="{kind}" cx="{x.place(cost):g}" cy="{y.place(value):g}" r="{radius}">'
        marks.append(f'<a href="#t{escape(row.trial)}" tabindex="-1">{circle}<title>{label(row)}</title></circle></a>')
    return _figure(f"Value of each trial by its {objective}", _frame(x, y, objective, results.metric), marks)


def plot_progress(results: Results) -> str:
    """The best value by the time that attempts had worked; a vertical line where a new attempt took over."""
    if not results.history:
        return ""
    total = sum(attempt.seconds for attempt in results.attempts) or 1.0
    scale, unit = next((scale, unit) for least, scale, unit in UNITS if total >= least)
    x = Axis(0, total / scale, _LEFT, _RIGHT)
    y = value_axis([step.value for step in results.history], results.maximise)
    write = metric_format(step.value for step in results.history)
    points = [(x.place(step.seconds / scale), y.place(step.value)) for step in results.history]
    marks = [
        f'<circle class="best" cx="{px}" cy="{py}" r="3.5"><title>trial {escape(step.trial)}, epoch {step.epoch}: '
        f"{write(step.value)}</title></circle>"
        for (px, py), step in zip(points, results.history, strict=True)
    ]
    takeovers = [_upright(x.place(a.clock / scale), f"attempt {a.id}") for a in results.attempts[1:]]
    frame = _frame(x, y, f"{unit} of running", results.metric)
    return _figure("Best value over time", frame, [*takeovers, _steps(points, _RIGHT), *marks])


def plot_curves(results: Results) -> str:
    """Each trial's value by epoch, the best one on top, with the rungs."""
    rows = [row for row in results.rows if any(value is not None for _, value in row.curve)]
    if not rows:
        return ""
    last = max(row.epochs for row in rows)
    values = [value for row in rows for _, value in row.curve if value is not None]
    x, y = Axis(min(1, last - 1), last, _LEFT, _RIGHT), value_axis(values, results.maximise)
    label = _labels(results)
    rungs = [
        _upright(x.place(rung.epochs[0]), f"rung {rung.number}")
        for rung in results.rungs
        if _drawable(rung.epochs, last)
    ]
    lines = [_curve(row, "best" if row is results.best else row.state, x, y, label(row)) for row in reversed(rows)]
    return _figure("Learning curves", _frame(x, y, "epoch", results.metric), [*rungs, *lines])


def _drawable(epochs: Sequence[int], last: int) -> bool:
    """A rung that lies at one epoch for all trials, and not at their end, where the line would be the border."""
    return len(epochs) == 1 and epochs[0] < last


def _labels(results: Results) -> Callable[[Row], str]:
    write = metric_format(row.value for row in results.rows)

    def label(row: Row) -> str:
        params = [f"{name}={value_text(row.params[key])}" for key, name in results.columns.items() if key in row.params]
        return escape(f"{row.trial} {row.state}: {write(row.value)}\n{', '.join(params)}")

    return label


def _curve(row: Row, kind: str, x: Axis, y: Axis, label: str) -> str:
    points = [(x.place(epoch), y.place(value)) for epoch, value in row.curve if value is not None]
    thinned = points[:: math.ceil(len(points) / _MOST_POINTS)]
    if points[-1] not in thinned:
        thinned.append(points[-1])
    if len(points) == 1:  # a line of one point is invisible
        return f'<circle class="{kind}" cx="{points[0][0]}" cy="{points[0][1]}" r="2.5"><title>{label}</title></circle>'
    path = "L".join(f"{px:g} {py:g}" for px, py in thinned)
    return f'<path class="curve {kind}" d="M{path}"><title>{label}</title></path>'


def _steps(points: Sequence[tuple[float, float]], end: float) -> str:
    """A line that stays level until the next point."""
    path = f"M{points[0][0]:g} {points[0][1]:g}" + "".join(f"H{px:g}V{py:g}" for px, py in points[1:])
    return f'<path class="incumbent" d="{path}H{end:g}"/>'


def _upright(x: float, label: str) -> str:
    line = f'<path class="rung" d="M{x:g} {_TOP}V{_BOTTOM}"/>'
    return f'{line}<text class="rung" x="{x:g}" y="{_TOP - 4}">{escape(label)}</text>'


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> list[str]:
    parts = []
    for tick in y.ticks():
        place = y.place(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {place}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4:g}" text-anchor="end">{tick_text(tick)}</text>')
    for tick in x.ticks():
        if x_title in ("trial", "epoch") and tick != int(tick):
            continue
        parts.append(f'<text x="{x.place(tick)}" y="{_BOTTOM + 17}" text-anchor="middle">{tick_text(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>')
    parts.append(f'<text x="{_RIGHT}" y="{_BOTTOM + 34}" text-anchor="end">{escape(x_title)}</text>')
    if y.beyond:
        parts.append(f'<text x="{_LEFT}" y="{_BOTTOM + 34}">{count(y.beyond, "far worse value")} on the edge</text>')
    return [*parts, f'<text x="4" y="12">{escape(y_title)}</text>']


def tick_text(tick: float) -> str:
    """A round number without the traces of binary arithmetic: 0.30000000000000004 -> '0.3'."""
    return f"{round(tick, 10):g}"


def _figure(description: str, frame: Sequence[str], body: Sequence[str]) -> str:
    opening = f'<svg class="drawn" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
    return "\n".join([opening, *frame, *body, "</svg>"])
