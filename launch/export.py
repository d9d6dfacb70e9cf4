"""The winner's weights as a model that plain timm opens, compared before it says so.

    python launch/export.py DIR --out MODEL                     # the best trial
    python launch/export.py DIR --trial 7 --out MODEL           # another one
    python launch/export.py DIR --out MODEL --also onnx         # and as a graph without Python
    python launch/export.py DIR --format ray --out FOLDER       # the whole sweep, for Ray's ResultGrid
    python launch/export.py DIR --format mlflow --out FOLDER    # or for MLflow, or (wandb) Weights & Biases

Then, anywhere, with nothing but timm:

    timm.create_model("local-dir:MODEL", pretrained=True)
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator

from hpo.errors import UsageError
from hpo.layout import absolute, sync_folder
from hpo.records import SweepState, read_events
from hpo.results.find import find_row
from hpo.results.read import Results, Row, open_results, read_results
from launch.terminal import command, say

_GRAPHS = ("torch-export", "onnx")
_FORMATS = ("timm", "ray", "mlflow", "wandb")


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    results = read_results(open_results(arguments.directory))
    out = absolute(arguments.out)
    if arguments.format == "timm":
        row = find_row(results, arguments.trial) if arguments.trial else None
        _export_model(results, row, out, list(dict.fromkeys(arguments.also)), arguments.data)
    else:
        if arguments.trial or arguments.also or arguments.data:
            raise UsageError(
                f"--format {arguments.format} takes the whole sweep: leave --trial, --also and --data out."
            )
        _export_sweep(results, arguments.format, out)
    sys.stdout.write(f"{out}\n")
    sys.stdout.flush()
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export.py",
        description="Writes a trial's weights as a model that timm alone opens: weights, configuration with class "
        "names and preprocessing, model card. Loads it in a clean process and compares before it says 'done'.",
        epilog="example: python launch/export.py runs/clothing-20261124-7f3a --out clothing-model",
    )
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory, or a copy of it")
    parser.add_argument("--out", metavar="MODEL", required=True, help="a new directory; nothing is ever overwritten")
    parser.add_argument("--trial", metavar="ID", help="which trial (default: the best)")
    parser.add_argument(
        "--also", choices=_GRAPHS, action="append", default=[], help="also as a graph, compared too; may be repeated"
    )
    parser.add_argument("--data", metavar="DATA", help="the shards, where they have moved since the sweep")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="timm",
        help="timm (default): a model. ray: the sweep as ResultGrid reads it. mlflow, wandb: as runs of that tracker, "
        "without network.",
    )
    return parser


def _export_model(results: Results, row: Row | None, out: Path, graphs: list[str], data: str | None) -> None:
    from hpo.export.graph import require_packages

    require_packages(graphs)
    with new_folder(out) as folder:
        from hpo.export.write import export_model

        shards = absolute(data or results.settings.get("data") or out)
        for line in export_model(results, row, folder, shards, graphs):
            say(line)


def _export_sweep(results: Results, form: str, out: Path) -> None:
    state = SweepState(read_events(results.directory.journal))
    if form == "ray":
        with new_folder(out) as folder:
            from hpo.search.ray_form import write_ray_folder

            write_ray_folder(state, results.constants, folder)
        say(f"done: ray.tune.ResultGrid(ray.tune.ExperimentAnalysis({str(out)!r})) reads it, also after a move")
        return
    from hpo.export.trackers import require_tracker, write_tracker

    require_tracker(form)
    with new_folder(out) as folder:
        write_tracker(form, results.name, state, results.constants, folder)
    opened = {
        "mlflow": f"mlflow ui --backend-store-uri sqlite:///{out / 'mlflow.db'}",
        "wandb": f"wandb sync {out}/wandb/offline-run-*, from a machine with network",
    }
    say(f"done: {opened[form]}")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` when all went well, and vanishes otherwise.

    Raises:
        UsageError: `out` exists, or cannot be made.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already, and export.py overwrites nothing; name a new directory with --out.")
    fresh = out.parent / f".{out.name}.{os.getpid()}.new"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
    except OSError as error:
        raise UsageError(f"{out} cannot be made ({error.strerror}); name another directory with --out.") from None
    try:
        yield fresh
        _publish(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _publish(fresh: Path, out: Path) -> None:
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(fresh)
    if os.path.lexists(out):  # since we looked
        raise UsageError(f"{out} was made by somebody else meanwhile; name a new directory with --out.")
    fresh.rename(out)
    sync_folder(out.parent)


if __name__ == "__main__":
    raise SystemExit(main())
