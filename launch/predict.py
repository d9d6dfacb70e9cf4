"""What an exported model says of images: a CSV with a row for each image.

    python launch/predict.py MODEL photos/ more/*.jpg > predictions.csv
    python launch/predict.py MODEL photos/ --out predictions.csv --top 3
    python launch/predict.py MODEL table.csv                          # a model of images and a table

Images are prepared exactly as the model's training data were. Class probabilities are columns of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hpo.errors import DataError, UsageError
from hpo.layout import absolute, write_text
from launch.terminal import Progress, command, say, whole_number

_MOST_WARNINGS = 20


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    from hpo.export.model import ExportedModel

    model = ExportedModel(absolute(arguments.model))
    paths, load = _open(model, arguments.images)
    if arguments.top and model.meta["task"] != "classification":
        raise UsageError("--top is for classes, and this model predicts numbers; leave it out.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(model.table.images) if model.table else ["image"]
    writer.writerow([*names, *_header(model, arguments.top)])
    unreadable = 0
    for path, values in _predict(model, paths, load):
        unreadable += isinstance(values, str)
        if isinstance(values, str) and unreadable <= _MOST_WARNINGS:
            say(f"{', '.join(path)} cannot be read: {values}")
        writer.writerow([*path, *([] if isinstance(values, str) else _cells(model, values, arguments.top))])
    _deliver(text.getvalue(), arguments.out)
    if unreadable:
        raise DataError(f"{unreadable} of {len(paths)} images could not be read; their rows are empty.")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Predicts images with an exported model; writes CSV: image, prediction, probability, then a column "
        "for each class (for numbers: one for each value).",
        epilog="example: python launch/predict.py clothing-model photos --out predictions.csv",
    )
    parser.add_argument("model", metavar="MODEL", help="a directory that export.py wrote")
    parser.add_argument(
        "images", metavar="IMAGES", nargs="+",
        help="image files, folders (with all below), patterns; for a model that takes a table one CSV file",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write (default: standard output)")
    parser.add_argument(
        "--top", metavar="K", type=whole_number(1), help="only the K likeliest classes and their shares"
    )
    return parser


def _open(model: Any, places: Sequence[str]) -> tuple[list[tuple[str, ...]], Callable[[int], Any]]:
    """What is to be predicted: the path or paths that name each image or row, and how to load it."""
    from hpo.data.rows import open_table
    from hpo.export.images import list_images, read_file

    if model.table is None:
        files = list_images(places)
        return [(str(path),) for path in files], lambda number: read_file(files[number], model.policy)
    if len(places) != 1:
        raise UsageError(f"this model takes rows of a table: name one CSV file, not {len(places)} files.")
    rows, images = open_table(Path(places[0]).expanduser(), model.table, model.policy)
    return list(zip(*images, strict=True)), rows.load


def _predict(model: Any, paths: Sequence[Any], load: Callable[[int], Any]) -> Iterator[tuple[Any, Any]]:
    """Each path with its values, or with the reason why it cannot be read."""
    from hpo.data.images import BadImage
    from hpo.export.images import read_ahead

    progress = Progress("predict", len(paths), "images")
    reasons: dict[int, str] = {}
    numbers: list[int] = []

    def readable() -> Iterator[Any]:
        for number, found in read_ahead(load, len(paths)):
            if isinstance(found, BadImage):
                reasons[number] = str(found)
            else:
                numbers.append(number)
                yield found

    values: dict[int, Any] = {}
    for done, prediction in enumerate(model.predict(readable())):
        values[numbers[done]] = prediction
        progress.update(done + 1)
    progress.close()
    for number, path in enumerate(paths):
        yield path, reasons.get(number, values.get(number))


def _header(model: Any, top: int | None) -> list[str]:
    if model.meta["task"] != "classification":
        return list(model.columns)
    if top:
        names = [(f"class_{place}", f"probability_{place}") for place in range(1, min(top, len(model.columns)) + 1)]
        return [name for pair in names for name in pair]
    return ["prediction", "probability", *model.columns]


def _cells(model: Any, values: Any, top: int | None) -> list[str]:
    numbers = [float(value) for value in values]
    if model.meta["task"] != "classification":
        return [repr(number) for number in numbers]
    order = sorted(range(len(numbers)), key=lambda place: -numbers[place])
    if top:
        pairs = [(model.columns[place], f"{numbers[place]:.6g}") for place in order[:top]]
        return [text for pair in pairs for text in pair]
    return [model.columns[order[0]], f"{numbers[order[0]]:.6g}", *(f"{number:.6g}" for number in numbers)]


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        write_text(out, text)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); name another file with --out.") from None


if __name__ == "__main__":
    raise SystemExit(main())
