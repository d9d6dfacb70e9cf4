"""What a sweep has found, from its files alone, while it runs or years later.

    python launch/results.py DIR                 # table, best configuration, why each trial ended
    python launch/results.py DIR --trial 7       # one trial: its curve, ASHA's decisions, failures
    python launch/results.py DIR --json          # everything, for programs

Standard library only: it works on a copy of DIR on a machine where nothing is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import shlex
import shutil
import textwrap
import time
from typing import Any

from hpo.errors import SweepError, UsageError, nearest
from hpo.results.read import FailureGroup, Results, Row, open_results, read_results
from hpo.results.table import best_yaml, render_comparison, render_table, render_trial, summarise
from launch.terminal import colour, command

JSON_VERSION = 1
_BOLD, _GREEN = "1", "32"


@command
def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a locale without UTF-8 must not end in a traceback
    results = read_results(open_results(arguments.directory))
    chosen = _find(results, arguments.trial) if arguments.trial else None
    if arguments.json:
        text = json.dumps(to_json(results, [chosen] if chosen else results.rows), allow_nan=False)
    elif chosen:
        text = "\n".join(render_trial(results, chosen))
    else:
        text = "\n".join(_overview(results, arguments.directory, len(results.rows) if arguments.all else arguments.top))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # here, where a closed pipe is still caught
    if results.status == "ended" and not results.best:
        raise SweepError("the sweep ended without one usable trial; --trial 0 shows the first, --all why each ended.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="results.py",
        description="Shows a sweep's trials, the best configuration and why each trial ended. Reads files only.",
        epilog="example: python launch/results.py runs/clothing-20261124-7f3a --top 10",
    )
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory, or a copy of it")
    parser.add_argument("--top", metavar="N", type=_positive, default=20, help="rows of the table (default: 20)")
    parser.add_argument("--all", action="store_true", help="all rows")
    parser.add_argument("--trial", metavar="ID", help="one trial: curve, decisions, failures, configuration")
    parser.add_argument("--json", action="store_true", help="all of it as JSON (with --trial: of that trial)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _find(results: Results, trial: str) -> Row:
    """The trial of that id or number: '7' is '0007'.

    Raises:
        UsageError: there is none.
    """
    for row in results.rows:
        if trial == row.trial or (trial.isdecimal() and int(trial) == row.number):
            return row
    hint = nearest(trial, [row.trial for row in results.rows])
    raise UsageError(f"there is no trial {trial!r}; the sweep has {len(results.rows)}, from 0 on.{hint}")


def _overview(results: Results, directory: str, top: int) -> list[str]:
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [colour(f"Sweep {results.name}", _BOLD)]
    for sentence in summarise(results, time.time()):
        lines += textwrap.wrap(sentence, max(width, 40), subsequent_indent="  ")
    if results.rows:
        lines += ["", *_table(results, results.rows[:top], width, "..." if ascii_only else "…")]
    if len(results.rows) > top:
        lines.append(f"({len(results.rows) - top} more trials: --all)")
    comparison = render_comparison(results)
    if comparison:
        lines += ["", *comparison]
    if results.failures:
        lines += ["", *map(_failure_line, results.failures)]
    if results.best:
        lines += ["", f"# best configuration: trial {results.best.trial}", *best_yaml(results).splitlines()]
    return [*lines, "", *_next_steps(results, directory)]


def _failure_line(group: FailureGroup) -> str:
    return f"Failed {group.failures} x {group.kind}, last in trial {group.trials[-1]}: {group.cause}"


def _table(results: Results, rows: list[Row], width: int, ellipsis: str) -> list[str]:
    header, *lines = render_table(results, rows, width, ellipsis)
    if rows[0].rank:
        lines[0] = colour(lines[0], _GREEN)
    return [colour(header, _BOLD), *lines]


def _next_steps(results: Results, directory: str) -> list[str]:
    place = shlex.quote(directory)
    if results.status == "unfinished":
        return [f"Next: {_call('submit')} --resume {place}"]
    if results.status in ("waiting", "running"):
        return [f"Next: {_call('results')} {place}    # again later"]
    return [f"Next: {_call('report')} {place}    # everything on one page"]


def _call(name: str) -> str:
    """Another command, spelt the way in which this one was called."""
    called = Path(sys.argv[0])
    if called.suffix != ".py":
        return f"slurmtune {name}"
    return f"python {shlex.quote(str(called.with_name(name + '.py')))}"


def to_json(results: Results, rows: list[Row]) -> dict[str, Any]:
    """The results for programs. Keys are added under the same `version`; a change of meaning raises it.

    version 1:
        version, name, metric, mode ("max" or "min"), num_trials (asked for, or null)
        status      "waiting" (no attempt yet), "running", "unfinished" (no attempt at work) or "ended"
        states      {state: number of trials}; states: completed stopped diverged failed running interrupted suggested
        best, default   ids of the best trial and of trial 0, or null
        constants   {key: value} that all trials share
        trials      best first, then those without a value: rank (null without), trial, number, state, reason, brief,
                    value, best_epoch, epochs, max_epochs, params, origin, seconds, node,
                    curve [[epoch, value or null]], decisions and failures (events of the journal, see hpo.records)
        attempts    id, job, host, nodes, started_at (Unix seconds), clock (seconds of earlier ones), seconds,
                    ended (false: at work or killed), reason
        history     each new best: seconds (of the attempts' time), trial, epoch, value
        rungs       number, epochs [...], arrived, stopped
        failures    kind, failures, trials [...], cause (of the last)
        last_event_at   Unix seconds, or null
    """
    return {
        "version": JSON_VERSION,
        "name": results.name,
        "metric": results.metric,
        "mode": results.mode,
        "num_trials": results.num_trials,
        "status": results.status,
        "states": results.states,
        "best": results.best.trial if results.best else None,
        "default": results.default.trial if results.default else None,
        "constants": results.constants,
        "trials": [vars(row) for row in rows],
        "attempts": [vars(attempt) for attempt in results.attempts],
        "history": [vars(step) for step in results.history],
        "rungs": [vars(rung) for rung in results.rungs],
        "failures": [vars(group) for group in results.failures],
        "last_event_at": results.last_event_at,
    }


if __name__ == "__main__":
    raise SystemExit(main())
