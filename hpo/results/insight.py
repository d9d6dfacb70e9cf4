"""What the report shows of the searched space where Optuna and Plotly are at hand; made by hpo.search.figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpo.results.page import section, text


@dataclass(frozen=True)
class Plot:
    """A Plotly figure as its JSON, and what it shows, in words."""

    name: str
    title: str
    caption: str
    figure: dict[str, Any]


@dataclass(frozen=True)
class Insight:
    """`importance`: searched key's short name and its share, largest first; `basis`: of which values all this is said;
    `library`: Plotly's own JavaScript, to be put into the page."""

    basis: str
    importance: Sequence[tuple[str, float]] = ()
    plots: Sequence[Plot] = ()
    library: str = field(default="", repr=False)


def insight_sections(insight: Insight | None) -> list[str]:
    """The page's sections; without `insight` one line that says what is missing and why."""
    if insight is None:
        missing = "Importance, parallel coordinates and slices need optuna and plotly: make this report in slurmtune's "
        return [section("space", "The searched space", f'<p class="soft">{missing} environment.</p>')]
    if not insight.importance and not insight.plots:
        return [section("space", "The searched space", f'<p class="soft">{text(insight.basis)}</p>')]
    parts = [f'<p class="soft">{text(insight.basis)}</p>', _bars(insight.importance), *map(_figure, insight.plots)]
    return [section("space", "The searched space", *parts)]


def _bars(importance: Sequence[tuple[str, float]]) -> str:
    """Importance as bars of plain HTML: readable without scripts, by keyboard and aloud."""
    if not importance:
        return ""
    largest = max(share for _, share in importance) or 1.0
    rows = [
        f'<tr><th scope="row">{text(name)}</th><td class="number">{share:.0%}</td>'
        f'<td class="bar"><span style="width:{max(0.5, 100 * share / largest):.1f}%"></span></td></tr>'
        for name, share in importance
    ]
    note = (
        "How much of what sets the best trials apart each key explains (PED-ANOVA, Optuna's), within the region "
        "that was tried: a key that was hardly varied looks unimportant."
    )
    return (
        f'<div class="card"><h3>Importance</h3><table class="bars"><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="soft">{note}</p></div>'
    )


def _figure(plot: Plot) -> str:
    """An empty box that the page's script fills, with the data beside it as inert JSON."""
    content = json.dumps(plot.figure, allow_nan=False).replace("<", "\\u003c")
    height = int(plot.figure.get("layout", {}).get("height", 420))
    return (
        f'<figure class="card plotted" id="{text(plot.name)}"><h3>{text(plot.title)}</h3>'
        '<noscript><p class="soft">This plot needs JavaScript; the table below holds its numbers.</p></noscript>'
        f'<div class="plot" style="min-height:{height}px" role="img" aria-label="{text(plot.title)}"></div>'
        f'<script type="application/json">{content}</script><figcaption>{text(plot.caption)}</figcaption></figure>'
    )


# Draws every plot in the page's own colours, and again when these change.
DRAW = """
const draw = () => {
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
  for (const figure of document.querySelectorAll("figure.plotted")) {
    const {data, layout} = JSON.parse(figure.querySelector("script").textContent);
    Object.assign(layout, {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent")},
      font: {color: colour("--ink"), family: "system-ui, sans-serif", size: 13}});
    for (const [name, axis] of Object.entries(layout))
      if (/^[xy]axis/.test(name)) Object.assign(axis, {gridcolor: colour("--line"), zerolinecolor: colour("--line")});
    Plotly.react(figure.querySelector(".plot"), data, layout, {displaylogo: false, responsive: true,
      modeBarButtonsToRemove: ["lasso2d", "select2d"]}).then(() => figure.dataset.drawn = "yes");
  }
};
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""
