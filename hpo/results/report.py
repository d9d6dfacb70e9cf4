"""report.html: what a sweep found, on one page that opens without a network and says why things are as they are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo.errors import JournalError, UsageError
from hpo.layout import SweepDirectory, write_text
from hpo.results.front import front
from hpo.results.insight import DRAW, Insight, insight_sections
from hpo.results.lanes import plot_workers
from hpo.results.ledger import hours_text, read_ledger
from hpo.results.page import MARKER, breakable, cell, page, raw_cell, row, section, table, text
from hpo.results.plots import plot_curves, plot_front, plot_progress, plot_trials
from hpo.results.read import Results, Row, read_results
from hpo.results.retraining import (
    read_retraining,
    read_test,
    retraining_rows,
    retraining_words,
    say_test,
    seed_folders,
)
from hpo.results.table import best_yaml, epochs_text, summarise
from hpo.results.wording import count, duration, metric_format, moment, one_line, short, value_text

Draw = Callable[[Results], Insight]
_LONGEST_FILE = 100_000  # characters of sweep.yaml that the page shows
_MOST_NAMES = 20  # trials listed beside a failure
_MOST_ROWS = 25  # trials that are shown without scrolling
_SECTIONS = {"best": "Best", "retrained": "Retrained", "course": "Course", "space": "Space", "trials": "Trials",
             "failures": "Failures", "effort": "Effort", "attempts": "Attempts",
             "provenance": "Provenance"}  # fmt: skip


def write_report(directory: SweepDirectory, out: Path | None = None, draw: Draw | None = None) -> Path:
    """Writes the report of the sweep in `directory` to `out`, by default its report.html, and returns where it is.

    `draw` makes what needs Optuna and Plotly (hpo.search.figures.draw_insight); without it the page says so.

    Raises:
        UsageError: `out` is a file that is not a report, or cannot be written.
        JournalError: see hpo.results.read_results.
    """
    target = out or directory.report
    _check_target(target)
    results = read_results(directory)
    content = render_report(results, time.time(), draw(results) if draw else None)
    try:
        write_text(target, content)
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror}); name another file with --out.") from None
    return target


def _check_target(target: Path) -> None:
    """Only a report of ours may be replaced."""
    if not target.exists():
        return
    try:
        with target.open(encoding="utf-8", errors="replace") as stream:
            ours = MARKER in stream.read(200)
    except OSError as error:
        raise UsageError(f"{target} cannot be replaced ({error.strerror}); name another file with --out.") from None
    if not ours:
        raise UsageError(
            f"{target} exists and is no report of slurmtune; move it away or name another file with --out."
        )


def render_report(results: Results, now: float, insight: Insight | None = None) -> str:
    """The page as text. `now`: Unix seconds, the time it says it was made."""
    sections = [
        section("best", "Default against best", *_best(results)),
        section("retrained", "The best ones, trained again with other seeds", *_retrained(results)),
        section("course", "How the search went", _plots(results)),
        *insight_sections(insight),
        section("trials", "All trials", _trials(results)),
        section("failures", "Failures by cause", _failures(results)),
        section("effort", "What the time was spent on", *_effort(results)),
        section("attempts", "Attempts", _attempts(results)),
        section("provenance", "Provenance", *_provenance(results)),
    ]
    shown = [name for name, content in zip(_SECTIONS, sections, strict=True) if content]
    links = "".join(f'<a href="#{name}">{_SECTIONS[name]}</a>' for name in shown)
    made = f"<footer><p>Made by slurmtune on {moment(now)} from {text(results.directory.journal.name)}.</p></footer>"
    words = "\n".join(f"<p>{text(sentence)}</p>" for sentence in summarise(results, now))
    head = f"<header>\n<h1>{text(results.name)}</h1>\n{words}\n<nav>{links}</nav>\n{_tiles(results)}</header>"
    body = "\n".join([head, "<main>", *filter(None, sections), "</main>", made])
    scripts = [insight.library, DRAW] if insight and insight.plots else []
    return page(f"{results.name}: sweep report", body, scripts)


def _tiles(results: Results) -> str:
    """The figures that one looks for first, large."""
    write = metric_format(row.value for row in results.rows)
    best, default, gain = results.best, results.default, results.gain()
    tiles = []
    if best:
        tiles.append(_tile(write(best.value), f"best {results.metric}, trial {best.trial}", "winner"))
    if default and default is not best:
        name = "default configuration" if default.origin == "default" else "first point"
        tiles.append(_tile(write(default.value), f"{name}, trial {default.trial}"))
        if gain is not None:
            tiles.append(_tile(("+" if results.maximise else "−") + write(gain), "gained by the search"))
    tiles.append(_tile(f"{len(results.rows)}/{results.num_trials or len(results.rows)}", "trials"))
    spent = sum(attempt.seconds for attempt in results.attempts)
    tiles.append(_tile(duration(spent), f"of running, in {count(len(results.attempts), 'attempt')}"))
    return f'<div class="tiles">{"".join(tiles)}</div>\n'


def _tile(value: str, what: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><b>{text(value)}</b><span class="soft">{text(what)}</span></div>'


def _best(results: Results) -> list[str]:
    if not results.best:
        return []
    title = "<h3>Best configuration, to paste into a sweep file</h3>"
    yaml = f'<div class="card">{title}<pre>{text(best_yaml(results))}</pre></div>'
    again = bool(seed_folders(results.directory))
    remedy = "Below is what the best ones were worth" if again else "Train the best ones again"
    caution = (
        f"The best of {count(len(results.rows), 'trial')} on one validation split looks a little better than it is: "
        f"the luckiest was chosen. {remedy} with other seeds. Take the winner away:"
    )
    commands = ("" if again else "python launch/retrain.py DIR --top 3 --seeds 5\n") + (
        f"python launch/export.py DIR --trial {results.best.trial} --out MODEL"
    )
    return [f'<div class="grid">{_comparison(results)}{yaml}</div>', f'<p class="soft">{caution}</p>',
            f"<pre>{text(commands)}</pre>"]  # fmt: skip


def _retrained(results: Results) -> list[str]:
    """What retrain.py has found, where it was used."""
    try:
        found, test = read_retraining(results), read_test(results.directory)
    except (JournalError, ValueError) as error:
        return [f"<p>DIR/retrain cannot be read: {text(one_line(error))}</p>"]
    if not found.seeds:
        return []
    words = [*retraining_words(found), *([say_test(test)] if test else [])]
    parts = [f"<p>{text(sentence)}</p>" for sentence in words]
    if found.candidates:
        titles, *rows = retraining_rows(results, found)
        kinds = ("", *["number"] * (len(titles) - 1))
        lines = [row(*(cell(value, kind) for value, kind in zip(values, kinds, strict=True))) for values in rows]
        parts.insert(0, table(titles, lines, numeric=titles[1:]))
    return parts


def _comparison(results: Results) -> str:
    best, default = results.best, results.default
    if not best or not default or best is default:
        return '<div class="card start"><p>Trial 0 is the best so far: nothing to compare it with.</p></div>'
    write = metric_format(row.value for row in results.rows)
    lines = [row(cell(results.metric), cell(write(default.value)), cell(write(best.value), "changed"))]
    for key in results.columns:
        before, after = default.params.get(key), best.params.get(key)
        if before is not None or after is not None:
            names = (key, value_text(before), value_text(after))
            change = "changed" if before != after else ""
            cells = (raw_cell(breakable(name), kind) for name, kind in zip(names, ("", "", change), strict=True))
            lines.append(row(*cells))
    first = "default" if default.origin == "default" else "first"
    return table(["", f"{first} (trial {default.trial})", f"best (trial {best.trial})"], lines, kind="wrapping")


def _plots(results: Results) -> str:
    drawn = [
        ("Trials, in their order", plot_trials(results),
         "Each dot is a trial's best value; the line is the best so far. A dot leads to its row below."),
        ("The best value over time", plot_progress(results),
         "Time in which an attempt was at work; waiting in a queue does not count."),
        ("Learning curves", plot_curves(results), "Each line is a trial; rest the mouse on one to see which."),
    ]  # fmt: skip
    ahead, caption = front(results), "Large dots are the Pareto front: no other trial is better in everything."
    drawn += [(f"Against {name}", plot_front(results, name, ahead), caption) for name in results.objectives]
    figures = [
        f'<figure class="card"><h3>{text(title)}</h3>{svg}<figcaption>{caption}</figcaption></figure>'
        for title, svg, caption in drawn
        if svg
    ]
    if not figures:
        return ""
    return f'{_legend(results)}<div class="grid">{"".join(figures)}{_rungs(results)}</div>'


def _legend(results: Results) -> str:
    entries = {"best": 1, **results.states}
    items = [
        f'<li><span class="dot {state}"></span>{state} {number if state != "best" else ""}</li>'
        for state, number in entries.items()
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _rungs(results: Results) -> str:
    if not results.rungs:
        return ""
    lines = []
    for rung in results.rungs:
        first, last = rung.epochs[0], rung.epochs[-1]
        epochs = str(first) if first == last else f"{first} to {last}"
        held = rung.stopped + rung.paused
        numbers = (rung.number, epochs, rung.arrived, rung.stopped, rung.paused, rung.arrived - held)
        lines.append(row(*(cell(number, "number") for number in numbers)))
    titles = ["rung", "epoch", "arrived", "stopped", "paused", "went on"]
    part = results.settings.get("tune", {}).get("reduction_factor")
    note = (
        "A rung is an epoch at which trials are compared. A trial goes on when it is among the best "
        f"{f'1/{part} ' if part else ''}of those that have come there so far; the others are stopped early, or wait "
        "(ASHA)."
    )
    counts = table(titles, lines, numeric=titles)
    return f'<div class="card start"><h3>Rungs</h3>{counts}<p class="soft">{note}</p></div>'


def _trials(results: Results) -> str:
    if not results.rows:
        return ""
    write = metric_format(row.value for row in results.rows)
    names = list(results.columns.values())
    tall = "tall" if len(results.rows) > _MOST_ROWS else ""  # then the table scrolls in itself
    titles = ["rank", "trial", results.metric, "state", "epochs", *names, "why", "best epoch", "origin", "time", "node"]
    lines = [_trial(item, results, write(item.value)) for item in results.rows]
    return table(
        titles, lines, sortable=True, kind=tall, numeric=("rank", results.metric, "epochs", "best epoch", "time")
    )


def _trial(item: Row, results: Results, value: str) -> str:
    dot = "best" if item is results.best else item.state
    cells = [
        cell(item.rank or "-", "number"),
        cell(item.trial),
        cell(value, "number", item.value if item.value is not None else "-"),
        raw_cell(f'<span class="dot {text(dot)}"></span>{text(item.state)}'),
        cell(epochs_text(item), "number", item.epochs),
    ]
    cells += [_parameter(item.params.get(key)) for key in results.columns]
    cells += [cell(item.reason, "wide"), cell(item.best_epoch or "-", "number"), cell(item.origin)]
    cells += [cell(duration(item.seconds), "number", f"{item.seconds:.0f}"), cell(item.node or "-")]
    return row(*cells, name=f"t{item.trial}")


def _parameter(value: Any) -> str:
    return cell(value_text(value), sort=value if isinstance(value, float) else None)


def _failures(results: Results) -> str:
    if not results.losses:
        return ""
    lines = []
    for group in results.losses:
        links = [f'<a href="#t{text(trial)}">{text(trial)}</a>' for trial in group.trials[:_MOST_NAMES]]
        more = [f"and {len(group.trials) - _MOST_NAMES} more"] if len(group.trials) > _MOST_NAMES else []
        trials = raw_cell(", ".join([*links, *more]), "wide")
        lines.append(
            row(cell(group.kind), cell(group.failures, "number"), trials, cell(short(group.cause, 500), "wide"))
        )
    return table(["kind", "times", "trials", "last cause"], lines, numeric=("times",))


def _effort(results: Results) -> list[str]:
    """The ledger and who worked when."""
    ledger = read_ledger(results)
    svg = plot_workers(results)
    if not ledger.allocated or not svg:
        return []
    parts = (("went the whole way, or still runs", ledger.useful), ("stopped early by ASHA", ledger.stopped),
             ("failed or diverged", ledger.failed), ("idle: nobody worked", ledger.idle))  # fmt: skip
    lines = [
        row(cell(what), cell(hours_text(hours), "number"), cell(f"{hours / ledger.allocated:.0%}", "number"))
        for what, hours in parts
        if ledger.unit != "node-hours"
    ]
    lines.append(row(cell("allocated"), cell(hours_text(ledger.allocated), "number"), cell("100%", "number")))
    titles = ["", ledger.unit, "share"]
    saved = f"Early stopping saved about {hours_text(ledger.saved)} {ledger.unit}." if ledger.saved else ""
    note = "Each bar is a trial on its node; the gaps are idle."
    caption = f"<figcaption>{note}</figcaption>"
    return [table(titles, lines, numeric=titles[1:]), f"<p>{saved}</p>" if saved else "",
            f'<figure class="card plotless">{svg}{caption}</figure>']  # fmt: skip


def _attempts(results: Results) -> str:
    lines = []
    for attempt in results.attempts:
        last = attempt is results.attempts[-1] and results.status == "running"
        silent = "at work, as far as the journal says" if last else "without a word: killed, or its node died"
        ended = (one_line(attempt.reason) or "no reason given") if attempt.ended else silent
        about = [attempt.id, attempt.job or "-", attempt.host or "-", attempt.nodes or "-", moment(attempt.started_at)]
        lines.append(row(*map(cell, about), cell(duration(attempt.seconds), "number"), cell(ended, "wide")))
    titles = ["attempt", "job", "host", "nodes", "started", "worked", "ended"]
    return table(titles, lines, numeric=("worked",)) if lines else ""


def _provenance(results: Results) -> list[str]:
    facts = dict(_flatten(_read_provenance(results.directory)))
    facts = {key: results.settings[key] for key in ("data", "seed") if key in results.settings} | facts
    lines = [row(cell(name), cell(short(one_line(value), 2000), "wide")) for name, value in facts.items()]
    parts = [table([], lines)] if lines else []
    parts.append(_reproduce(results))
    if results.directory.sweep_file.is_file():
        content = results.directory.sweep_file.read_text(encoding="utf-8", errors="replace")[:_LONGEST_FILE]
        parts.append(
            f"<details><summary>The sweep file as it was written</summary><pre>{text(content)}</pre></details>"
        )
    return parts


def _reproduce(results: Results) -> str:
    """What to type to have the winner again, alone."""
    if not results.best:
        return ""
    commands = (
        "# the same sweep again: same space, same seed, the data named above\n"
        "python launch/submit.py sweep.yaml\n"
        "# the winner as a model for plain timm\n"
        f"python launch/export.py DIR --trial {results.best.trial} --out MODEL\n"
        "# the winner trained anew, alone: save the configuration above as winner.yaml with `data:` and\n"
        "# `hyperparameter_tune_kwargs: {num_trials: 1}`, then\n"
        "python launch/submit.py winner.yaml"
    )
    return f'<div class="card"><h3>To have it again</h3><pre>{text(commands)}</pre></div>'


def _read_provenance(directory: SweepDirectory) -> Any:
    """provenance.json, or one line that says what is wrong with it: a report is worth having without."""
    try:
        return json.loads(directory.provenance.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return {"provenance.json": f"not readable ({error})"}


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, " ".join(map(str, value))
    else:
        yield name, value
