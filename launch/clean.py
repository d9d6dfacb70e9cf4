"""Makes room: removes checkpoints that nothing needs any more. Says what it would remove, and does so with --yes only.

    python launch/clean.py DIR                           # what could go, and how much that is
    python launch/clean.py DIR --yes                     # remove it
    python launch/clean.py DIR --keep-trials 1 --budget 5GB

The journal, results, logs, reports and DIR/best always stay: everything but the weights of lesser trials can still be
looked at. Touches only what slurmtune wrote, and nothing while the sweep runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import contextlib
import fcntl
import json
import re
from collections.abc import Iterator
from typing import Any

from hpo.errors import JournalError, UsageError
from hpo.layout import SweepDirectory
from hpo.results.leftovers import Plan, plan_cleaning, remove_checkpoint
from hpo.results.read import open_results, read_results
from hpo.results.wording import count
from launch.terminal import command, say, whole_number

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SHOWN = 40


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    directory = open_results(arguments.directory)
    with _alone(directory):
        plan = plan_cleaning(read_results(directory), arguments.keep_trials, arguments.budget)
        if arguments.json:
            sys.stdout.write(json.dumps(_to_json(plan, directory, arguments.yes)) + "\n")
        else:
            sys.stdout.write("\n".join(_lines(plan, directory)) + "\n")
        if arguments.yes:
            _remove(plan)
    if plan.leftovers:
        said = "removed" if arguments.yes else "nothing was removed: add --yes to do it;"
        say(f"{said} {count(sum(one.files for one in plan.leftovers), 'file')}, {size_text(plan.size)}")
    sys.stdout.flush()
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clean.py",
        description="Removes checkpoints that nothing needs any more from a sweep's directory. Without --yes it only "
        "says what it would remove.",
        epilog="example: python launch/clean.py runs/clothing-20261124-7f3a --keep-trials 3 --budget 2GB",
    )
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory")
    parser.add_argument("--keep-trials", metavar="N", type=whole_number(1), default=3,
                        help="of so many trials the best epoch stays (default: 3)")  # fmt: skip
    parser.add_argument("--budget", metavar="SIZE", type=_size,
                        help="of them together: 500MB, 5GB; the best trial's stays in any case")  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="really remove")
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    return parser


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if not match:
        raise argparse.ArgumentTypeError(f"takes a size such as 500MB or 5GB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


@contextlib.contextmanager
def _alone(directory: SweepDirectory) -> Iterator[None]:
    """Holds the journal as a driver does, so that none starts meanwhile.

    Raises:
        JournalError: a driver is at work. UsageError: the directory may only be read.
    """
    try:
        stream = directory.journal.open("rb+")
    except OSError as error:
        raise UsageError(
            f"{directory.journal} cannot be opened for writing ({error.strerror}); nothing to do here."
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"{directory.root} is being written by a running sweep; clean it when it has ended."
            ) from None
        except OSError as error:
            raise UsageError(f"{directory.journal} cannot be locked ({error.strerror}); clean a copy of it.") from None
        yield


def _lines(plan: Plan, directory: SweepDirectory) -> list[str]:
    lines = [
        f"{size_text(one.size):>9}  {one.path.relative_to(directory.root)}  ({one.why})"
        for one in plan.leftovers[:_SHOWN]
    ]
    if len(plan.leftovers) > _SHOWN:
        lines.append(f"           and {len(plan.leftovers) - _SHOWN} more folders")
    lines += [f"           {path.relative_to(directory.root)} is left alone: it holds what slurmtune did not write"
              for path in plan.foreign]  # fmt: skip
    total = f"{size_text(plan.size)} in {count(len(plan.leftovers), 'folder')} may go"
    return [*lines, f"{total}, {size_text(plan.kept)} of checkpoints stay."]


def _to_json(plan: Plan, directory: SweepDirectory, removed: bool) -> dict[str, Any]:
    """version, removed (whether it was done), bytes, kept_bytes, leftovers [path, files, size, why], foreign [path]."""
    leftovers = [{**vars(one), "path": str(one.path.relative_to(directory.root))} for one in plan.leftovers]
    foreign = [str(path.relative_to(directory.root)) for path in plan.foreign]
    return {"version": 1, "removed": removed, "bytes": plan.size, "kept_bytes": plan.kept, "leftovers": leftovers,
            "foreign": foreign}  # fmt: skip


def _remove(plan: Plan) -> None:
    for one in plan.leftovers:
        try:
            remove_checkpoint(one.path)
        except OSError as error:
            raise UsageError(f"{one.path} cannot be removed ({error.strerror}); what came before it is gone.") from None


def size_text(size: float) -> str:
    """1234567 -> '1.2 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


if __name__ == "__main__":
    raise SystemExit(main())
