"""Makes HDF5 shards of images, or checks them.

python launch/prepare.py IMAGES --out DATA
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from launch.terminal import Progress, command, say, whole_number

if TYPE_CHECKING:
    from hpo.data.listing import Source
    from hpo.data.manifest import DataSummary

_DAMAGED = 3
_EPILOG = """\
IMAGES is one of
  a folder or zip file   CLASS/*.jpg, or train/CLASS, validation/CLASS (or val, valid) and test/CLASS: splits are kept
  a CSV file             columns of image paths (relative to the file) and labels; see --image-column and --columns
  an HDF5 file           a dataset of images and one of labels; see --images-key
What has no splits gets them, stratified by class. A missing validation split is drawn from train.

Run the same command again after an interruption: it goes on where it stopped.

examples:
  python launch/prepare.py --demo --out data/clothing
  python launch/prepare.py launch/demo/clothing.zip --out data/clothing96 --encoding raw --size 96
  python launch/prepare.py --check data/clothing
"""


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.check is not None:
        _require_only(arguments, "--check verifies what is there", {"check", "json", "workers"})
        return _check(arguments)
    if arguments.out is None:
        raise UsageError("no output directory; add --out DATA.")
    if bool(arguments.demo) == (arguments.images is not None):
        raise UsageError("name the images to prepare, or --demo for the bundled ones.")
    return _make(arguments)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare.py",
        description="Makes HDF5 shards of images, in parallel, or checks them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="?", type=Path, metavar="IMAGES", help="folder, zip, CSV or HDF5 file of images"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DATA", help="directory to write, new, empty or begun by the same command"
    )
    parser.add_argument("--demo", action="store_true", help="prepare the bundled photographs as raw 64 x 64 images")
    parser.add_argument(
        "--check", type=Path, metavar="DATA", help="verify every checksum; 3 is the exit code of damage"
    )
    parser.add_argument("--json", action="store_true", help="summary as JSON on standard output")
    parser.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="processes (default: the CPUs this process may use)"
    )
    _add_image_options(parser.add_argument_group("images"))
    _add_split_options(parser.add_argument_group("splits"))
    _add_source_options(parser.add_argument_group("CSV and HDF5"))
    return parser


def _add_image_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--encoding",
        choices=("jpeg", "raw"),
        default="jpeg",
        help="jpeg (default): bytes of plain RGB JPEGs are kept, others stored at quality 95; raw: pixels, "
        "needs --size, fastest for small images",
    )
    group.add_argument(
        "--size", type=whole_number(1), metavar="N", help="short side in pixels; raw: also cropped to N x N"
    )
    group.add_argument(
        "--max-side",
        type=_side,
        default=1024,
        metavar="N",
        help="without --size: shrink a longer side to N pixels (default 1024; none: never)",
    )
    group.add_argument(
        "--shard-size", type=whole_number(1), default=256, metavar="MIB", help="of one file, about (default 256)"
    )
    group.add_argument(
        "--strict", action="store_true", help="stop at an unreadable image instead of listing it in skipped.csv"
    )


def _add_split_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--validation", type=float, default=0.1, metavar="SHARE", help="to set aside (default 0.1)")
    group.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="to set aside (default 0.1)")
    group.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="of the drawn splits (default 0)")


def _add_source_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image-column",
        action="append",
        metavar="NAME",
        help="(default image); several times for several images a row",
    )
    group.add_argument(
        "--label-column",
        action="append",
        metavar="NAME",
        help="(default label); several times for several regression targets",
    )
    group.add_argument("--split-column", metavar="NAME", help="holds train, validation or test")
    group.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further columns, numbers or categories, for a model of images and table; all: every one. With them an "
        "empty cell is a missing value, of an image column a missing image",
    )
    group.add_argument(
        "--column-type",
        action="append",
        default=[],
        type=_column_type,
        metavar="NAME=TYPE",
        help="numerical, categorical or null (left out), where what is found is not what you mean",
    )
    group.add_argument(
        "--link",
        action="store_true",
        help="of an HDF5 file: write down labels and splits only, and have trials read the images from the file, "
        "slower; it must stay as it is",
    )
    group.add_argument("--images-key", default="images", metavar="NAME", help="HDF5 dataset of images (default images)")
    group.add_argument("--labels-key", default="labels", metavar="NAME", help="HDF5 dataset of labels (default labels)")
    group.add_argument(
        "--task",
        choices=("classification", "regression"),
        help="(default: regression if the labels are numbers and not all whole)",
    )


def _column_type(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TYPE")
    return name, kind


def _side(text: str) -> int | None:
    return None if text == "none" else whole_number(1)(text)


def _make(arguments: argparse.Namespace) -> int:
    from hpo.data.bundled import ensure_demo_data
    from hpo.data.manifest import describe
    from hpo.data.sources import find_source

    started, progress = time.monotonic(), _Bars("preparing")
    if arguments.demo:
        _require_only(arguments, "--demo makes raw 64 x 64 images", {"demo", "out", "json", "workers"})
        summary = describe(ensure_demo_data(arguments.out, say, progress.update))
    else:
        say(f"listing {arguments.images}")
        source = find_source(arguments.images, _source_options(arguments))
        stored = "linked" if arguments.link else f"{arguments.encoding}{_sizing(arguments)}"
        say(f"{len(source.listing)} images, {source.listing.task}, {stored}")
        summary = _link(source, arguments) if arguments.link else _prepare(source, arguments, progress)
    progress.close()
    _print_summary(summary, time.monotonic() - started, arguments.json)
    return 0


def _prepare(source: Source, arguments: argparse.Namespace, progress: _Bars) -> DataSummary:
    from hpo.data.write import prepare

    return prepare(
        source,
        arguments.out,
        _recipe(arguments),
        arguments.workers or _cpus(),
        strict=arguments.strict,
        tell=say,
        progress=progress.update,
    )


def _link(source: Source, arguments: argparse.Namespace) -> DataSummary:
    from hpo.data.link import link_file

    given = {"encoding", "size", "max_side", "shard_size", "strict", "workers"}
    _require_only(arguments, "--link leaves images as they are", set(vars(arguments)) - given)
    return link_file(source, arguments.out, _recipe(arguments).shares, arguments.seed, say)


def _require_only(arguments: argparse.Namespace, what: str, allowed: set[str]) -> None:
    """An option that would be ignored is an error."""
    defaults = vars(build_parser().parse_args([]))
    for name, value in vars(arguments).items():
        if name not in allowed and value != defaults[name]:
            option = name.upper() if name == "images" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{what} and takes no {option}; leave it out.")


def _source_options(arguments: argparse.Namespace) -> Any:
    from hpo.data.sources import SourceOptions

    return SourceOptions(
        image_columns=tuple(arguments.image_column or ["image"]),
        label_columns=tuple(arguments.label_column or ["label"]),
        split_column=arguments.split_column,
        columns=tuple(arguments.columns),
        column_types=tuple(arguments.column_type),
        images_key=arguments.images_key,
        labels_key=arguments.labels_key,
        task=arguments.task,
    )


def _recipe(arguments: argparse.Namespace) -> Any:
    from hpo.data.plan import Recipe
    from hpo.data.split import Shares

    return Recipe(
        encoding=arguments.encoding,
        size=arguments.size,
        max_side=arguments.max_side,
        shard_mib=arguments.shard_size,
        seed=arguments.seed,
        shares=Shares(arguments.validation, arguments.test),
    )


def _sizing(arguments: argparse.Namespace) -> str:
    if arguments.size:
        return f", short side {arguments.size}{', middle square' if arguments.encoding == 'raw' else ''}"
    return f", longer sides shrunk to {arguments.max_side}" if arguments.max_side else ""


def _cpus() -> int:
    from hpo.data.pool import available_cpus

    return available_cpus()


def _check(arguments: argparse.Namespace) -> int:
    from hpo.data.check import check
    from hpo.data.manifest import describe

    summary, progress = describe(arguments.check), _Bars("checking")
    damages = check(arguments.check, arguments.workers or _cpus(), progress.update)
    progress.close()
    if arguments.json:
        listed = [dataclasses.asdict(damage) for damage in damages]
        _print(json.dumps({**_plain(summary), "sound": not damages, "damages": listed}, indent=2))
    else:
        for damage in damages:
            _print(str(damage))
        verdict = f"{len(damages)} damages" if damages else "sound"
        _print(f"{arguments.check}: {sum(summary.splits.values())} images in {summary.num_shards} shards, {verdict}")
    return _DAMAGED if damages else 0


def _print_summary(summary: DataSummary, seconds: float, as_json: bool) -> None:
    if as_json:
        _print(json.dumps({**_plain(summary), "seconds": round(seconds, 1)}, indent=2))
        return
    counts = ", ".join(f"{count} {split}" for split, count in summary.splits.items() if count)
    what = f"{summary.num_classes} classes" if summary.task == "classification" else f"{summary.num_classes} target(s)"
    size = f"{summary.num_bytes / 2**20:.0f} MiB in " + (
        f"{summary.num_shards} shards" if summary.num_shards else "one file"
    )
    left_out = f", {summary.skipped} images skipped" if summary.skipped else ""
    beside = f" and {_columns(summary.columns)}" if summary.columns else ""
    _print(f"{summary.directory}: {counts}; {what}{beside}; {summary.encoding}, {size}{left_out}")


def _columns(columns: dict[str, Any]) -> str:
    counts = {"image": columns["images"], **{kind: columns[kind] for kind in ("numerical", "categorical")}}
    return ", ".join(f"{len(names)} {kind} column(s)" for kind, names in counts.items() if names)


def _plain(summary: DataSummary) -> dict[str, Any]:
    return {**dataclasses.asdict(summary), "directory": str(summary.directory)}


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


class _Bars:
    """One progress line for each stage of the work, told apart by its unit."""

    def __init__(self, label: str) -> None:
        self._label, self._unit = label, ""
        self._bar: Progress | None = None

    def update(self, done: int, total: int, unit: str, note: str) -> None:
        if self._bar is None or unit != self._unit:
            self.close()
            self._bar, self._unit = Progress(self._label, total, unit), unit
        self._bar.update(done, note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    raise SystemExit(main())
