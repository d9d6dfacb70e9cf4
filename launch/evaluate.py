"""How good an exported model is on labelled images: metrics with confidence intervals, and what it confuses.

python launch/evaluate.py MODEL DATA                      # the test split of what prepare.py made
python launch/evaluate.py MODEL photos/                   # a folder by class, a CSV, a zip
python launch/evaluate.py MODEL DATA --confusion confusion.csv --json
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
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo.errors import DataError, UsageError
from hpo.layout import absolute, write_text
from launch.terminal import Progress, command

_VERSION = 1
_WIDEST = 20  # classes whose confusion matrix still fits a terminal


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    from hpo.export.images import open_labelled
    from hpo.export.model import ExportedModel

    model = ExportedModel(absolute(arguments.model))
    images = open_labelled(absolute(arguments.data), arguments.split, model.meta, model.policy)
    report = _judge(model, images)
    if arguments.confusion:
        _write_confusion(report, arguments.confusion)
    sys.stdout.write(json.dumps(report, allow_nan=False) + "\n" if arguments.json else _in_words(report))
    sys.stdout.flush()
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Judges an exported model on labelled images. Intervals are at 95 %.",
        epilog="example: python launch/evaluate.py clothing-model data/photos --split test",
    )
    parser.add_argument("model", metavar="MODEL", help="a directory that export.py wrote")
    parser.add_argument(
        "data", metavar="DATA", help="what prepare.py made, or a folder by class, CSV, zip or HDF5 file"
    )
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="default: test, else validation; of a folder all"
    )
    parser.add_argument("--confusion", metavar="FILE", type=Path, help="write the confusion matrix as CSV")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    return parser


def _judge(model: Any, images: Any) -> dict[str, Any]:
    """The report, JSON-ready; see --json of version 1: metrics, per class, confusion (rows: truth)."""
    import numpy as np

    from hpo.export import scores

    outputs = np.stack(list(model.predict(_readable(images))))
    about = {"version": _VERSION, "model": model.meta["model"], "data": images.name, "split": images.split}
    about |= {"images": len(images.labels), "task": model.meta["task"]}
    if model.meta["task"] == "regression":
        labels = images.labels.astype(np.float64)
        if labels.shape != outputs.shape:
            raise DataError(f"{images.name} has {labels.shape[1]} label columns, the model gives {outputs.shape[1]}.")
        return {**about, "metrics": _plain(scores.regression_scores(labels, outputs))}
    matrix = scores.confusion_matrix(images.labels, outputs)
    return {
        **about,
        "metrics": _plain(scores.classification_scores(images.labels, outputs)),
        "classes": [
            {**vars(score), "recall": vars(score.recall) if score.recall else None}
            for score in scores.class_scores(matrix, model.columns)
        ],
        "confusion": matrix.tolist(),
    }


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value if math.isfinite(value) else None for key, value in vars(estimate).items()}
        for name, estimate in found.items()
    }


def _readable(images: Any) -> Iterator[Any]:
    from hpo.data.images import BadImage
    from hpo.export.images import read_ahead

    progress = Progress("evaluate", len(images.labels), "images")
    for number, found in read_ahead(images.load, len(images.labels)):
        if isinstance(found, BadImage):
            raise DataError(f"{images.name}: {images.names[number]} cannot be read ({found}); mend or remove it.")
        yield found
        progress.update(number + 1)
    progress.close()


def _in_words(report: Mapping[str, Any]) -> str:
    split = f" ({report['split']})" if report["split"] else ""
    lines = [f"{report['model']} on {report['images']} images of {report['data']}{split}", ""]
    lines += _aligned([["metric", "value", "95 % interval"], *(_estimate(*item) for item in report["metrics"].items())])
    if "classes" in report:
        lines += ["", *_aligned([["class", "images", "found", "95 % interval", "right when said"],
                                 *map(_class_row, report["classes"])])]  # fmt: skip
        lines += ["", *_confusion_lines(report)]
    return "\n".join(lines) + "\n"


def _estimate(name: str, found: Mapping[str, Any]) -> list[str]:
    return [name, _number(found["value"]), f"{_number(found['low'])} to {_number(found['high'])}"]


def _class_row(score: Mapping[str, Any]) -> list[str]:
    recall = score["recall"]
    interval = f"{_number(recall['low'])} to {_number(recall['high'])}" if recall else "-"
    return [score["name"], str(score["images"]), _number(recall and recall["value"]), interval,
            _number(score["precision"])]  # fmt: skip


def _confusion_lines(report: Mapping[str, Any]) -> list[str]:
    """The matrix where it fits, else the pairs that are confused most."""
    names, matrix = [score["name"] for score in report["classes"]], report["confusion"]
    if len(names) <= _WIDEST:
        head = ["truth \\ said", *(name[:8] for name in names)]
        return _aligned([head, *([name, *map(str, counts)] for name, counts in zip(names, matrix, strict=True))])
    pairs = [
        (matrix[a][b], names[a], names[b])
        for a in range(len(names))
        for b in range(len(names))
        if a != b and matrix[a][b]
    ]
    return [f"{times} x {truth} taken for {said}" for times, truth, said in sorted(pairs, reverse=True)[:20]]


def _write_confusion(report: Mapping[str, Any], path: Path) -> None:
    if "confusion" not in report:
        raise UsageError("--confusion is for classes, and this model predicts numbers; leave it out.")
    names = [score["name"] for score in report["classes"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["truth", *names])
    writer.writerows([name, *counts] for name, counts in zip(names, report["confusion"], strict=True))
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file.") from None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) if place else cell.ljust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
