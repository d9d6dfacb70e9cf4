"""Who worked when: a lane for each place on a node where a trial can run, gaps where nobody did. Inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hpo.results.plots import UNITS, Axis, tick_text
from hpo.results.read import Results
from hpo.results.timeline import Span
from hpo.results.wording import duration, short

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 110, 948, 22
_LANE, _MOST_LANES = 16, 64


def plot_workers(results: Results) -> str:
    """Each trial as a bar on its node, by the time that attempts had worked; '' where none ran."""
    total = sum(attempt.seconds for attempt in results.attempts)
    lanes = assign_lanes(results.spans)[:_MOST_LANES]
    if not lanes or total <= 0:
        return ""
    scale, unit = next((scale, unit) for least, scale, unit in UNITS if total >= least)
    x = Axis(0, total / scale, _LEFT, _RIGHT)
    states = {row.trial: row.state for row in results.rows}
    best = results.best.trial if results.best else ""
    bottom = _TOP + _LANE * len(lanes)
    body = []
    for place, (node, spans) in enumerate(lanes):
        top = _TOP + _LANE * place
        if place == 0 or lanes[place - 1][0] != node:
            body.append(
                f'<text x="{_LEFT - 6}" y="{top + 12}" text-anchor="end">{escape(short(node or "?", 16))}</text>'
            )
        for span in spans:
            left, right = x.place(span.start / scale), x.place(span.end / scale)
            state = "best" if span.trial == best else states.get(span.trial, "")
            size = f'width="{max(0.8, right - left):.1f}" height="{_LANE - 2}"'
            body.append(
                f'<rect class="{escape(state)}" x="{left}" y="{top + 1}" {size}>'
                f"<title>{escape(span.trial)} {escape(state)}: {duration(span.end - span.start)}</title></rect>"
            )
    ticks = "".join(
        f'<path class="grid" d="M{x.place(t)} {_TOP}V{bottom}"/>'
        f'<text x="{x.place(t)}" y="{bottom + 15}" text-anchor="middle">{tick_text(t)}</text>'
        for t in x.ticks(8)
    )
    title = f'<text x="{_RIGHT}" y="{bottom + 32}" text-anchor="end">{unit} of running</text>'
    size = f'viewBox="0 0 {_WIDTH} {bottom + 40}"'
    return f'<svg class="drawn" {size} role="img" aria-label="Workers over time">{ticks}{title}{"".join(body)}</svg>'


def assign_lanes(spans: Sequence[Span]) -> list[tuple[str, list[Span]]]:
    """Node and its trials, one after the other in a lane: as many lanes as trials ran there at once."""
    found: dict[str, list[list[Span]]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.trial)):
        lanes = found.setdefault(span.node, [])
        free = next((lane for lane in lanes if lane[-1].end <= span.start), None)
        if free is None:
            lanes.append([span])
        else:
            free.append(span)
    return [(node, lane) for node in sorted(found) for lane in found[node]]
