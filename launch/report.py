"""One HTML file that shows what a sweep has found; it opens anywhere, without a network.

    python launch/report.py DIR                  # writes DIR/report.html and prints where it is
    python launch/report.py DIR --out FILE.html  # for a directory that may only be read

While the sweep runs, its report shows what is known so far. Where optuna and plotly are not installed the page is made
without what needs them (importance, parallel coordinates, slices), by the standard library alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import prefer_project_environment

    prefer_project_environment()

import argparse
import importlib.util

from hpo.results.read import open_results
from hpo.results.report import Draw, write_report
from launch.terminal import command, say


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    path = write_report(open_results(arguments.directory), arguments.out, _drawing())
    sys.stdout.write(f"{path}\n")
    sys.stdout.flush()
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Writes a sweep's report: one self-contained HTML file. Reads the sweep's files only.",
        epilog="example: python launch/report.py runs/clothing-20261124-7f3a --out clothing.html",
    )
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory, or a copy of it")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write (default: DIR/report.html)")
    return parser


def _drawing() -> Draw | None:
    """What draws the searched space, if its packages are here."""
    if not all(importlib.util.find_spec(name) for name in ("optuna", "plotly")):
        say("optuna or plotly is missing here: the report is made without importance and parallel coordinates")
        return None
    from hpo.search.figures import draw_insight

    return draw_insight


if __name__ == "__main__":
    raise SystemExit(main())
