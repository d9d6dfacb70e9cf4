"""The report's page: HTML around content, its style and the one script that sorts tables.

Self-contained: no address is loaded, and the page's own security policy forbids it. Everything that comes from a
sweep passes `text` on its way in.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

MARKER = "<!-- slurmtune report, format 1 -->"  # tells a report of ours from a file that must not be overwritten

STYLE = """
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1d2328; --soft: #5d6770; --line: #dcdfe2;
  --accent: #0b62a4; --completed: #2a7ab9; --stopped: #a9a294; --diverged: #b0359c; --failed: #cf3a2b;
  --running: #1f8a5b; --best: #e07b00; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --card: #1c2227; --ink: #e6e9ec; --soft: #9ba6b0;
  --line: #343c44; --accent: #6fb6ee; --completed: #58a6e0; --stopped: #9a9486; --diverged: #dd7fd0;
  --failed: #f07b6e; --running: #4cc38a; --best: #ffb04a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .92rem; margin: .6rem 0 1rem; }
p { margin: .3rem 0; max-width: 52rem; }
.soft, figcaption, footer { color: var(--soft); font-size: .9rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: 0;
  min-width: 0; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles .winner b { color: var(--best); }
pre { margin: 0; overflow-x: auto; font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.scroll { overflow: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.tall { max-height: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; }
td.number, th.number { text-align: right; }
td.wide { white-space: normal; min-width: 20rem; overflow-wrap: anywhere; }
.wrapping td, .wrapping th { white-space: normal; overflow-wrap: anywhere; }
.start { align-self: start; }
td.changed { font-weight: 600; }
tr:target td { background: color-mix(in srgb, var(--best) 22%, transparent); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .4em;
  background: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .9rem; margin: 0 0 .8rem; padding: 0;
  list-style: none; }
.dot.completed { background: var(--completed); } .dot.stopped { background: var(--stopped); }
.dot.diverged { background: var(--diverged); } .dot.failed { background: var(--failed); }
.dot.running { background: var(--running); }
.dot.paused { background: var(--stopped); opacity: .6; } .dot.best { background: var(--best); }
.bars th { width: 1%; position: static; } .bars td.number { width: 1%; } .bars td { border: 0; vertical-align: middle; }
.bars .bar span { display: block; height: .8em; border-radius: .2em; background: var(--accent); }
figure.plotless { margin-top: 1rem; } .plotted { margin-top: 1rem; overflow-x: auto; } .plot { min-width: 48rem; }
.bars th, .bars tr:last-child th { border: 0; }
svg.drawn { display: block; width: 100%; height: auto; overflow: visible; }
svg.drawn text { font: 12.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }
svg.drawn path { fill: none; }
svg.drawn .grid { stroke: var(--line); } svg.drawn .axis { stroke: var(--soft); }
svg.drawn path.rung { stroke: var(--soft); stroke-dasharray: 3 4; } svg.drawn text.rung { font-size: 11px; }
svg.drawn .incumbent { stroke: var(--best); stroke-width: 1.6; }
svg.drawn circle { fill: var(--soft); stroke: var(--card); stroke-width: .7; }
svg.drawn circle.completed { fill: var(--completed); } svg.drawn circle.stopped { fill: var(--stopped); }
svg.drawn circle.diverged { fill: var(--diverged); } svg.drawn circle.failed { fill: var(--failed); }
svg.drawn circle.running { fill: var(--running); } svg.drawn circle.best { fill: var(--best); }
svg.drawn .curve { stroke: var(--soft); stroke-width: 1.3; stroke-opacity: .75; stroke-linejoin: round; }
svg.drawn .curve.completed { stroke: var(--completed); } svg.drawn .curve.stopped { stroke: var(--stopped); }
svg.drawn .curve.diverged { stroke: var(--diverged); } svg.drawn .curve.failed { stroke: var(--failed); }
svg.drawn .curve.running { stroke: var(--running); }
svg.drawn .curve.best { stroke: var(--best); stroke-width: 2.6; stroke-opacity: 1; }
svg.drawn .curve:hover { stroke-width: 4; stroke-opacity: 1; }
svg.drawn circle:hover { stroke: var(--ink); stroke-width: 2; }
svg.drawn rect { fill: var(--soft); stroke: var(--card); stroke-width: .5; }
svg.drawn rect:hover { stroke: var(--ink); }
svg.drawn rect.completed { fill: var(--completed); } svg.drawn rect.stopped { fill: var(--stopped); }
svg.drawn rect.diverged { fill: var(--diverged); } svg.drawn rect.failed { fill: var(--failed); }
svg.drawn rect.running { fill: var(--running); } svg.drawn rect.best { fill: var(--best); }
.wholewidth { grid-column: 1 / -1; }
details > summary { cursor: pointer; }
@media (max-width: 40rem) { body { padding: .7rem; } .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .card { padding: .6rem .7rem; } }
@media (scripting: none) { .plot { display: none; } }
@media print { .tall { max-height: none; } nav { display: none; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...body.rows].map(row => {
      const cell = row.cells[head.cellIndex], raw = cell.dataset.v ?? cell.textContent;
      return [raw === "-" || raw === "" ? null : isNaN(raw) ? raw : Number(raw), row];
    });
    const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    keyed.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : up ? compare(a, b) : compare(b, a));
    body.append(...keyed.map(([, row]) => row));
  });
}
"""


def text(value: Any) -> str:
    """`value` for HTML, as content or as an attribute's value."""
    return html.escape(str(value), quote=True)


def breakable(value: Any) -> str:
    """`text` that may break at dots and underscores, where names like model.timm_image.checkpoint_name have joints."""
    return text(value).replace(".", ".<wbr>").replace("_", "_<wbr>")


def page(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """The whole file. The policy admits the style and, by their hashes, the script above and `scripts`; nothing from
    anywhere."""
    every = [SCRIPT, *scripts]
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in every)
    plotting = "; img-src data: blob:" if scripts else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {digests}{plotting}; base-uri 'none'"
    code = "\n".join(f"<script>{one}</script>" for one in every)
    return f"""<!DOCTYPE html>
{MARKER}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
{code}
</body>
</html>
"""


def section(name: str, title: str, *parts: str) -> str:
    """A titled part of the page, `name` being its anchor; '' when it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{text(title)}</h2>\n{content}\n</section>' if content else ""


def cell(value: Any, kind: str = "", sort: Any = None) -> str:
    """A table cell of escaped text; `sort` is what sorting goes by where that is not the text."""
    return raw_cell(text(value), kind, sort)


def raw_cell(content: str, kind: str = "", sort: Any = None) -> str:
    """A table cell whose `content` is HTML already."""
    attributes = (f' class="{kind}"' if kind else "") + (f' data-v="{text(sort)}"' if sort is not None else "")
    return f"<td{attributes}>{content}</td>"


def table(
    titles: Sequence[str], rows: Iterable[str], *, sortable: bool = False, numeric: Iterable[str] = (), kind: str = ""
) -> str:
    """A table in a box that scrolls sideways where it must. `rows` are whole <tr>s; `numeric` titles align right."""
    right = set(numeric)
    heads = []
    for title in titles:
        shown = f'<button type="button">{text(title)}</button>' if sortable else text(title)
        heads.append(f'<th scope="col"{" class=number" if title in right else ""}>{shown}</th>')
    opening = '<table class="sortable">' if sortable else "<table>"
    head = f"<thead><tr>{''.join(heads)}</tr></thead>" if heads else ""
    body = "\n".join(rows)
    return f'<div class="scroll {kind}" tabindex="0">{opening}{head}<tbody>\n{body}\n</tbody></table></div>'


def row(*cells: str, name: str = "") -> str:
    """One <tr>, `name` its anchor."""
    anchor = f' id="{text(name)}"' if name else ""
    return f"<tr{anchor}>{''.join(cells)}</tr>"
