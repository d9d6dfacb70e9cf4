"""What a sweep has found, from its files alone, while it runs or years later.

    python launch/results.py DIR                    # table, best configuration, why each trial ended
    python launch/results.py DIR best               # the best configuration, to paste
    python launch/results.py DIR trial 7            # one trial: its curve, ASHA's decisions, failures
    python launch/results.py DIR why 7              # who suggested it, and among whom each rung judged it
    python launch/results.py DIR failures           # by cause, with all trials
    python launch/results.py DIR log 7              # the end of its log; without a number the driver's
    python launch/results.py compare DIR DIR        # sweeps side by side
    python launch/results.py DIR --watch            # again and again, until the sweep comes to rest: 75 before its end
    python launch/results.py DIR --filter 'lr<1e-3' --sort val_loss --columns trial,val_loss,lr
    python launch/results.py DIR --json             # everything, for programs; --csv: a line a trial, for pandas

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
from collections.abc import Sequence

from hpo.errors import STOPPED, SweepError, UsageError
from hpo.results.against import compare_sweeps
from hpo.results.as_json import to_json
from hpo.results.find import find_row
from hpo.results.ledger import ledger_line, read_ledger
from hpo.results.live import live_lines
from hpo.results.logs import log_lines
from hpo.results.read import FailureGroup, Results, Row, open_results, read_results
from hpo.results.select import choose_rows, render_csv
from hpo.results.sequel import goes_on, left_the_queue
from hpo.results.table import align, best_yaml, chosen_columns, render_comparison, render_table, render_trial, summarise
from hpo.results.why import explain_trial
from hpo.results.wording import one_line
from launch.terminal import colour, command, whole_number

_WITHOUT_BEST = "the sweep ended without one usable trial; --trial 0 shows the first, --all why each ended."
_ASK_S = 30.0  # between two looks at SLURM's queue
_GONE_ASKS = 2  # in a row without a job there: one that is being requeued is missing for a moment
_BOLD, _GREEN = "1", "32"
_VERBS = {"best": 0, "trial": 1, "why": 1, "failures": 0, "log": 1, "compare": 9}  # and how many words may follow


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_intermixed_args(argv)  # `DIR --top 3 best` too
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a locale without UTF-8 must not end in a traceback
    verb, places, words = _understand(arguments)
    if arguments.watch:
        return _watch(places[0], arguments.watch)
    sweeps = [read_results(open_results(place)) for place in places]
    if verb == "compare":
        text = _compared(sweeps, arguments.json)
    else:
        parts = [_say(sweep, place, verb, words, arguments) for sweep, place in zip(sweeps, places, strict=True)]
        text = "\n\n".join(parts)
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()  # here, where a closed pipe is still caught
    if len(sweeps) == 1 and sweeps[0].status == "ended":
        return _exit_code(sweeps[0])
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="results.py",
        usage="results.py DIR [DIR ...] [best | trial ID | why ID | failures | log [ID]] [options]\n"
        "       results.py compare DIR DIR [...]",
        description="Shows a sweep's trials, the best configuration and why each trial ended. Reads files only.",
        epilog="example: python launch/results.py runs/clothing-20261124-7f3a --top 10",
    )
    parser.add_argument("words", metavar="DIR", nargs="+", help="the sweep's directory, or a copy; then what to show")
    parser.add_argument("--top", metavar="N", type=whole_number(1), default=20, help="rows of the table (default: 20)")
    parser.add_argument("--all", action="store_true", help="all rows")
    parser.add_argument("--trial", metavar="ID", help="one trial: curve, decisions, failures, configuration")
    parser.add_argument("--filter", metavar="CONDITION", action="append", default=[],
                        help="only such trials: 'lr<1e-3', 'reason~memory'; may be repeated")  # fmt: skip
    parser.add_argument("--sort", metavar="COLUMN", default="", help="smallest first; '-COLUMN' (--sort=-lr): largest")
    parser.add_argument("--columns", metavar="A,B", help="only these, in this order: rank, trial, lr, val_loss, ...")
    parser.add_argument("--lines", metavar="N", type=whole_number(1), default=50, help="of a log (default: 50)")
    parser.add_argument("--watch", metavar="SECONDS", type=whole_number(1), nargs="?", const=5,
                        help="show progress until the sweep has ended (exit code 0) or rests (75)")  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all of it as JSON (with a trial: of that trial)")
    form.add_argument("--csv", action="store_true", help="a line a trial, all columns or those of --columns")
    return parser


def _understand(arguments: argparse.Namespace) -> tuple[str, list[str], list[str]]:
    """What to show, of which directories, and the words after it."""
    words: list[str] = arguments.words
    if words[0] == "compare" and len(words) > 1:
        verb, places, rest = "compare", words[1:], []
    elif len(words) > 1 and words[1] in _VERBS:
        verb, places, rest = words[1], words[:1], words[2:]
        if verb == "compare":
            places, rest = [*places, *rest], []
    else:
        verb, places, rest = "", words, []
    if arguments.trial:
        verb, rest = verb or "trial", [arguments.trial]
    if verb in ("trial", "why") and not rest:
        raise UsageError(f"{verb} needs a trial: results.py {shlex.quote(places[0])} {verb} 7")
    if verb == "compare" and len(places) < 2:
        raise UsageError("compare needs two directories or more.")
    if rest[_VERBS.get(verb, 0) :]:
        raise UsageError(f"{rest[-1]!r} is too much after {verb!r}; see --help.")
    if arguments.watch and (verb or arguments.json or arguments.csv or arguments.filter or arguments.sort):
        raise UsageError("--watch shows a sweep's progress and nothing else; leave out the rest.")
    several = len(places) > 1 and verb != "compare"
    if several and (arguments.watch or arguments.json or arguments.csv):
        raise UsageError("--watch, --json and --csv take one directory; call it once for each.")
    return verb, places, rest


def _say(results: Results, place: str, verb: str, words: Sequence[str], arguments: argparse.Namespace) -> str:
    chosen = [find_row(results, words[0])] if verb in ("trial", "why") else None
    if verb == "best":
        chosen = [_best(results)]
    rows = chosen or choose_rows(results, arguments.filter, arguments.sort)
    names = [name.strip() for name in arguments.columns.split(",")] if arguments.columns else []
    if arguments.json:
        return json.dumps(to_json(results, rows), allow_nan=False)
    if arguments.csv:
        return render_csv(results, rows, names)
    if verb == "best":
        return best_yaml(results)
    if chosen:
        return "\n".join((explain_trial if verb == "why" else render_trial)(results, chosen[0]))
    if verb == "failures":
        return "\n".join(_failures(results))
    if verb == "log":
        return "\n".join(log_lines(results, find_row(results, words[0]) if words else None, arguments.lines))
    top = len(rows) if arguments.all else arguments.top
    if names or arguments.filter or arguments.sort:
        return "\n".join(_selection(results, rows, top, names))
    return "\n".join(_overview(results, place, top))


def _best(results: Results) -> Row:
    if not results.best:
        raise SweepError(f"no trial has a value of {results.metric} yet." if results.status != "ended" else
                         f"no trial has a value of {results.metric}; --all says why each ended.")  # fmt: skip
    return results.best


def _overview(results: Results, directory: str, top: int) -> list[str]:
    width, ellipsis = _terminal()
    lines = [colour(f"Sweep {results.name}", _BOLD)]
    cost = ledger_line(read_ledger(results))
    lines += _wrapped([*summarise(results, time.time()), *([cost] if cost else [])], width)
    if results.rows:
        lines += ["", *_table(results, results.rows[:top], width, ellipsis)]
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


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Each line broken at spaces to `width`, what follows set in."""
    broken = [textwrap.wrap(line, max(width, 40), subsequent_indent="  ") for line in lines]
    return [part for parts in broken for part in parts]


def _terminal() -> tuple[int, str]:
    """Its width, and the sign for what was left out."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    return shutil.get_terminal_size((100, 24)).columns, "..." if ascii_only else "…"


def _failure_line(group: FailureGroup) -> str:
    return f"Failed {group.failures} x {group.kind}, last in trial {group.trials[-1]}: {group.cause}"


def _failures(results: Results) -> list[str]:
    """Every failure, by kind; then the trials that diverged."""
    lines = []
    for group in results.losses:
        lines.append(colour(f"{group.failures} x {group.kind}", _BOLD))
        for row in sorted(results.rows, key=lambda row: row.number):
            if group.kind == row.state == "diverged":
                lines.append(f"  trial {row.trial} on {row.node or '-'}: {row.reason}")
            for event in row.failures:
                if one_line(event["kind"]) == group.kind:
                    end = "ran again" if event.get("retry") else "gave up"
                    lines.append(f"  trial {row.trial} on {row.node or '-'} ({end}): {one_line(event['cause'])}")
    return lines or ["No trial has failed."]


def _table(results: Results, rows: list[Row], width: int, ellipsis: str) -> list[str]:
    header, *lines = render_table(results, rows, width, ellipsis)
    if rows[0].rank:
        lines[0] = colour(lines[0], _GREEN)
    return [colour(header, _BOLD), *lines]


def _selection(results: Results, rows: list[Row], top: int, names: Sequence[str]) -> list[str]:
    if not rows:
        return ["No trial is so."]
    width, ellipsis = _terminal()
    columns = chosen_columns(results, rows[:top], names) if names else None
    width = sys.maxsize if names else width  # what was asked for by name is shown whole
    header, *lines = render_table(results, rows[:top], width, ellipsis, columns)
    more = [f"({len(rows) - top} more trials: --all)"] if len(rows) > top else []
    return [colour(header, _BOLD), *lines, *more]


def _compared(sweeps: Sequence[Results], as_json: bool) -> str:
    rows = compare_sweeps(sweeps)
    if as_json:
        names = [str(sweep.directory.root) for sweep in sweeps]
        facts = {row[0]: dict(zip(names, row[1:-1], strict=True)) for row in rows[1:]}
        return json.dumps({"version": 1, "sweeps": names, "facts": facts})
    return "\n".join(align([tuple(row) for row in rows]))


def _watch(place: str, seconds: int) -> int:
    """Shows the sweep's progress until it comes to rest; elsewhere than on a terminal when it changes."""
    live, before, asked, gone = sys.stdout.isatty(), (-1.0, False), 0.0, 0
    while True:
        results, now = read_results(open_results(place)), time.time()
        lines = live_lines(results, now)
        happened = results.last_event_at or 0.0, results.seems_dead(now)
        if live:
            text = "\n".join(_wrapped(lines, _terminal()[0]))
            sys.stdout.write(f"\x1b[H\x1b[2J{colour(results.name, _BOLD)}\n{text}\n")
        elif happened != before:
            sys.stdout.write("\n".join([f"{time.strftime('%H:%M:%S')} {results.name}", *lines]) + "\n")
        before = happened
        sys.stdout.flush()
        over = results.status == "ended" or (results.status == "unfinished" and not goes_on(results, now))
        if not over and now - asked > _ASK_S:
            asked, gone = now, gone + 1 if left_the_queue(results, now) else 0
            over = gone == _GONE_ASKS
        if over:
            sys.stdout.write("\n".join(_next_steps(results, place, at_rest=True)) + "\n")
            sys.stdout.flush()
            return _exit_code(results)
        time.sleep(seconds)


def _exit_code(results: Results) -> int:
    """Of a command that waited for the sweep's end.

    Raises:
        SweepError: it ended without a usable trial.
    """
    if results.status != "ended":
        return STOPPED
    if not results.best:
        raise SweepError(_WITHOUT_BEST)
    return 0


def _next_steps(results: Results, directory: str, at_rest: bool = False) -> list[str]:
    place = shlex.quote(directory)
    if results.status == "unfinished" or (at_rest and results.status != "ended"):
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


if __name__ == "__main__":
    raise SystemExit(main())
