"""Results as text: the summary in sentences, a table that fits the terminal, the default beside the winner."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.results.front import cost_text, say_front
from hpo.results.read import Results, Row
from hpo.results.select import column as column_of
from hpo.results.wording import configuration_yaml, count, duration, metric_format, moment, one_line, short, value_text

_GAP = "  "


@dataclass
class Column:
    """`drop`: columns with the highest number go first where the terminal is narrow; 0 always stays."""

    title: str
    cells: list[str]
    drop: int = 0
    least: int = 0  # characters down to which it may be shortened; 0: not at all
    right: bool = False

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.title, *self.cells))


def summarise(results: Results, now: float) -> list[str]:
    """The sweep in a few sentences. `now`: Unix seconds, to tell for how long a running one has been silent."""
    sentences = (
        _say_counts(results),
        _say_best(results),
        say_front(results),
        _say_saved(results),
        _say_status(results, now),
    )
    return [sentence for sentence in sentences if sentence]


def _say_counts(results: Results) -> str:
    total = count(results.num_trials or len(results.rows), "trial")
    so_far = f"{len(results.rows)} of {total}" if results.num_trials else total
    states = ", ".join(f"{number} {state}" for state, number in results.states.items())
    return f"{so_far}{': ' + states if states else ' so far'}."


def _say_best(results: Results) -> str:
    best, default = results.best, results.default
    if not best:
        return f"No trial has a value of {results.metric}{'' if results.status == 'ended' else ' yet'}."
    write = metric_format(row.value for row in results.rows)
    value = f"{results.metric} {write(best.value)} ({'higher' if results.maximise else 'lower'} is better)"
    sentence = f"Best: trial {best.trial}, {value} at epoch {best.best_epoch}"
    gain = results.gain()
    if default is None or gain is None:
        return f"{sentence}."
    name = "the default configuration" if default.origin == "default" else "the first one"
    if best is default:
        return f"{sentence}: {name}, which no other trial has beaten."
    return f"{sentence}; {write(gain)} better than {name} (trial {default.trial}, {write(default.value)})."


def _say_saved(results: Results) -> str:
    stopped = [row for row in results.rows if row.state == "stopped" and row.max_epochs]
    saved = sum((row.max_epochs or 0) - row.epochs for row in stopped)
    trained = sum(row.epochs for row in results.rows)
    return f"Early stopping saved {count(saved, 'epoch')}; {trained} were trained." if saved > 0 else ""


def _say_status(results: Results, now: float) -> str:
    spent = duration(sum(attempt.seconds for attempt in results.attempts))
    effort = f"{spent} in {count(len(results.attempts), 'attempt')}"
    if results.status == "waiting":
        return "No attempt has started yet: the job waits in the queue, or it failed to start."
    last = results.attempts[-1]
    if results.status == "ended":
        return f"Ended {moment(results.last_event_at or last.started_at)} after {effort}."
    if results.status == "unfinished":
        why = one_line(last.reason) or "no reason given"
        return f"Unfinished after {effort}, can be resumed: the last one ended with {why!r}."
    attempt = f"attempt {last.id}" + (f", job {last.job}" if last.job else "")
    return f"Running since {moment(last.started_at)} ({attempt}); {say_silence(results, now)}."


def say_silence(results: Results, now: float) -> str:
    """Of a running sweep: when something happened last, and whether that is doubtful. `now`: Unix seconds."""
    advice = "; that is long: if the job is gone, submit.py --resume goes on" if results.seems_dead(now) else ""
    return f"last event {duration(results.silence(now))} ago{advice}"


def render_table(
    results: Results, rows: Sequence[Row], width: int, ellipsis: str = "…", columns: list[Column] | None = None
) -> list[str]:
    """Header and one line a row, none wider than `width` if that can be; a last line names what was left out.
    `columns`: those of trial_columns by default."""
    columns, dropped = fit(columns or trial_columns(results, rows), width, len(ellipsis))
    widths = [column.width for column in columns]
    spare = width - sum(widths[:-1]) - len(_GAP) * (len(columns) - 1)
    widths[-1] = max(min(widths[-1], spare), len(columns[-1].title))
    cells = [[column.title, *column.cells] for column in columns]
    padded = [
        [_pad(short(text, width, ellipsis), width, column.right) for text in texts]
        for texts, width, column in zip(cells, widths, columns, strict=True)
    ]
    lines = [_GAP.join(line).rstrip() for line in zip(*padded, strict=True)]
    if dropped:
        lines += textwrap.wrap(f"(not shown for want of width: {', '.join(dropped)})", width, subsequent_indent=" ")
    return lines


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def trial_columns(results: Results, rows: Sequence[Row]) -> list[Column]:
    write = metric_format(row.value for row in results.rows)
    columns = [
        Column("#", [str(row.rank or "-") for row in rows], right=True),
        Column("trial", [row.trial for row in rows]),
        Column(results.metric, [write(row.value) for row in rows], right=True),
        *(Column(name, [cost_text(row, name) for row in rows], right=True) for name in results.objectives),
        Column("state", [row.state for row in rows]),
        Column("epochs", [epochs_text(row) for row in rows], right=True, drop=2),
    ]
    for place, (key, name) in enumerate(results.columns.items()):
        cells = [value_text(row.params.get(key)) for row in rows]
        numeric = all(isinstance(row.params.get(key), (int, float, type(None))) for row in rows)
        columns.append(Column(name, cells, drop=10 + place, least=0 if numeric else 12, right=numeric))
    return [
        *columns,
        Column("origin", [row.origin for row in rows], drop=101),
        Column("time", [duration(row.seconds) for row in rows], right=True, drop=100),
        Column("node", [row.node or "-" for row in rows], drop=102),
        Column("why", [row.brief for row in rows], least=24, drop=1),
    ]


def chosen_columns(results: Results, rows: Sequence[Row], names: Sequence[str]) -> list[Column]:
    """The columns `names` (see hpo.results.select), as a person asked for them: none is left out for want of width.

    Raises:
        UsageError: there is no such column.
    """
    found = []
    for name in names:
        values = [column_of(results, name)(row) for row in rows]
        numeric = all(isinstance(value, (int, float, type(None))) for value in values)
        found.append(Column(name, [value_text(value) for value in values], right=numeric))
    return found


def epochs_text(row: Row) -> str:
    return f"{row.epochs}/{row.max_epochs}" if row.max_epochs else str(row.epochs)


def fit(columns: list[Column], width: int, ellipsis: int = 1) -> tuple[list[Column], list[str]]:
    """The columns that fit, texts shortened in them first, and the titles of those that had to go."""
    kept, dropped = list(columns), []
    while _least_width(kept) > width and any(column.drop for column in kept):
        victim = max(kept, key=lambda column: column.drop)
        kept.remove(victim)
        dropped.append(victim.title)
    for column in sorted(kept[:-1], key=lambda column: -column.width):
        excess = _least_width(kept[-1:]) + sum(c.width + len(_GAP) for c in kept[:-1]) - width
        if excess > 0 and column.least:
            limit = max(column.least, column.width - excess, len(column.title))
            column.cells = [short_middle(text, limit, ellipsis) for text in column.cells]
    return kept, dropped[::-1]


def _least_width(columns: Sequence[Column]) -> int:
    return sum(_least(column) for column in columns) + len(_GAP) * (len(columns) - 1)


def _least(column: Column) -> int:
    return min(column.width, max(column.least, len(column.title))) if column.least else column.width


def short_middle(text: str, width: int, ellipsis: int = 1) -> str:
    """`text` with its middle left out: model names differ at both ends. `ellipsis`: 1 for '…', 3 for '...'."""
    if len(text) <= width:
        return text
    mark = "…" if ellipsis == 1 else "..."
    tail = (width - len(mark)) // 3
    return text[: width - len(mark) - tail] + mark + (text[-tail:] if tail else "")


def render_comparison(results: Results) -> list[str]:
    """Trial 0 and the winner side by side, '*' where they differ; [] when there is no winner other than trial 0."""
    default, best = results.default, results.best
    if not default or not best or best is default:
        return []
    write = metric_format(row.value for row in results.rows)
    lines = [("", f"{_first_title(default)} {default.trial}", f"best {best.trial}", "")]
    lines.append((results.metric, write(default.value), write(best.value), ""))
    for key in results.columns:
        before, after = default.params.get(key), best.params.get(key)
        if before is not None or after is not None:
            lines.append((key, value_text(before), value_text(after), "*" if before != after else ""))
    return align(lines)


def _first_title(row: Row) -> str:
    return "default" if row.origin == "default" else "first"


def align(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines, columns padded to their widest."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return [_GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def best_yaml(results: Results) -> str:
    """The best trial's whole configuration, to be pasted into a sweep file; '' while there is none."""
    return configuration_yaml(results.best.params, results.constants) if results.best else ""


def render_trial(results: Results, row: Row) -> list[str]:
    """Everything about one trial."""
    write = metric_format([row.value, *(value for _, value in row.curve)])
    ranked = sum(other.rank is not None for other in results.rows)
    place = f"rank {row.rank} of {ranked}" if row.rank else "no rank"
    lines = [f"Trial {row.trial}: {place}, {results.metric} {write(row.value)}, ran {duration(row.seconds)}."]
    lines += [
        f"{row.reason[:1].upper()}{row.reason[1:]}.",
        f"Suggested by: {row.origin}. Last node: {row.node or '-'}.",
        "",
    ]
    lines += _epoch_lines(results.metric, row, write)
    for failure in row.failures:
        again = "ran again" if failure.get("retry") else "gave up"
        lines.append(f"failure ({again}): {one_line(failure['kind'])}: {one_line(failure['cause'])}")
    return [*lines, "", *configuration_yaml(row.params, results.constants).splitlines()]


def _epoch_lines(metric: str, row: Row, write: Callable[[float | None], str]) -> list[str]:
    verdicts: dict[int, list[str]] = {}
    for decision in row.decisions:
        end = row.state == "completed" and decision["epoch"] == row.epochs  # nothing was left to stop
        action = "end" if end else _ACTIONS.get((decision["type"], str(decision["action"])), str(decision["action"]))
        verdicts.setdefault(decision["epoch"], []).append(_verdict_text(decision, action, write))
    if not row.curve:
        return ["No epoch was reported."]
    table: list[tuple[str, ...]] = [("epoch", metric, "")]
    for epoch, value in row.curve:
        notes = ["best"] if epoch == row.best_epoch else []
        table.append((str(epoch), write(value), "; ".join([*notes, *verdicts.get(epoch, [])])))
    return align(table)


_ACTIONS = {("reviewed", "continue"): "promoted", ("reviewed", "stop"): "not promoted"}


def _verdict_text(decision: dict[str, Any], action: str, write: Callable[[float | None], str]) -> str:
    cutoff = f", cutoff {write(decision['cutoff'])}" if decision.get("cutoff") is not None else ""
    return f"rung {decision['rung']}: {action}, rank {decision['rank']} of {decision['of']}{cutoff}"
