"""Fetches all pretrained weights that a sweep can ask for into the cache that its jobs read, with a manifest of hashes.

python launch/prefetch.py SWEEP.yaml              # on a machine with network; HF_HOME on storage that all hosts see
python launch/prefetch.py --model resnet18        # or single models
python launch/prefetch.py SWEEP.yaml --dry-run    # what is missing, and how large it is
python launch/prefetch.py SWEEP.yaml --check      # compares what is there with the manifest's hashes; no network
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import json
import os
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpo.cluster.sites import choose_site
from hpo.config import parse_search, read_document
from hpo.errors import UsageError, WeightsError
from hpo.layout import absolute
from hpo.modelnames import check_model_name
from hpo.weights import CachedFile, cache_home, hash_file, is_in_place, read_manifest, wanted_weights, write_manifest
from launch.terminal import Progress, command, say

if TYPE_CHECKING:
    from hpo.trial.fetch import Remote

_MB = 1e6


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    os.environ.update(choose_site(arguments.site).weights_environment())
    models = _models(arguments)
    home = cache_home()
    if not models:
        say("this sweep asks for no published weights; there is nothing to fetch")
        return 0
    if arguments.check:
        return _check(models, home)
    known = read_manifest(home)
    todo = [model for model in models if not (model in known and is_in_place(known[model], home))]
    failed = _fetch(todo, home, arguments.dry_run) if todo else {}
    if not arguments.dry_run:
        _show(models, home, arguments.json)
    if failed:
        first = next(iter(failed.values()))
        raise WeightsError(f"{len(failed)} of {len(todo)} models could not be fetched, first: {first}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefetch.py",
        description="Fetches the pretrained weights of a sweep's models, so that its jobs need no network.",
        epilog="example: python launch/prefetch.py launch/demo/sweep.yaml --check",
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="all models that its space can name")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="a timm model, repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="put over the sweep file")
    parser.add_argument("--site", metavar="NAME", help="site file that says where weights go (as of submit.py)")
    parser.add_argument("--check", action="store_true", help="compare the files with the manifest's hashes")
    parser.add_argument("--dry-run", action="store_true", help="ask the hub what is missing; fetch nothing")
    parser.add_argument("--json", action="store_true", help="the manifest's entries as JSON")
    return parser


def _models(arguments: argparse.Namespace) -> list[str]:
    """The models named, in order. Raises UsageError: none, or timm has no such model."""
    models = {check_model_name(name): None for name in arguments.model}
    if arguments.sweep:
        path = absolute(arguments.sweep)
        document, _ = read_document(path, arguments.set)
        try:
            space, _ = parse_search(document)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        models.update(dict.fromkeys(wanted_weights(space).models))
    elif not models:
        raise UsageError("nothing named to fetch; give a sweep file, or --model NAME.")
    return list(models)


def _go_online() -> None:
    """This command is for the network, whatever a profile for compute nodes says; its progress is ours."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _fetch(models: list[str], home: Path, dry_run: bool) -> dict[str, str]:
    """Fetches what is missing, one model after the other; returns why those that failed did."""
    _go_online()
    from hpo.trial.fetch import fetch, find_remote, has_weights

    remotes: list[Remote] = []
    failed: dict[str, str] = {}
    for model in models:
        if not has_weights(model):
            say(f"timm has no weights of {model}: trials of it start from scratch")
            continue
        try:
            remotes.append(find_remote(model))
        except WeightsError as error:
            failed[model] = str(error)
    total = sum(remote.bytes for remote in remotes)
    _check_room(total, home)
    if dry_run:
        for remote in remotes:
            sys.stdout.write(f"{remote.model}  {remote.source}  {remote.bytes / _MB:.1f} MB\n")
        say(f"{len(remotes)} models, {total / _MB:.1f} MB, would go below {home}")
        return failed
    progress, done = Progress("weights", max(1, round(total / _MB)), "MB"), 0.0
    for remote in remotes:
        progress.update(round(done / _MB), remote.model)
        try:
            write_manifest(home, {remote.model: fetch(remote, home)})
        except WeightsError as error:
            failed[remote.model] = str(error)
        done += remote.bytes
    progress.close(f"{len(models) - len(failed)} of {len(models)} models done")
    return failed


def _check_room(wanted: int, home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise UsageError(f"{home} cannot be written ({error.strerror}); set HF_HOME to another place.") from None
    if wanted > free:
        raise UsageError(f"{home} has {free / _MB:.0f} MB free, the weights take {wanted / _MB:.0f} MB; "
                         "make room, or set HF_HOME to a larger place.")  # fmt: skip


def _show(models: list[str], home: Path, as_json: bool) -> None:
    known = read_manifest(home)
    found = {model: known[model] for model in models if model in known}
    if as_json:
        entries = {model: asdict(entry) for model, entry in found.items()}
        sys.stdout.write(json.dumps({"home": str(home), "models": entries}) + "\n")
        return
    width = max(map(len, found), default=0)
    for model, entry in found.items():
        sys.stdout.write(f"{model.ljust(width)}  {entry.bytes / _MB:8.1f} MB  {entry.sha256[:12]}  {entry.source}\n")
    say(f"weights of {len(found)} models are below {home}; jobs need the same HF_HOME")


def _check(models: list[str], home: Path) -> int:
    """Compares each file with its hash. Raises WeightsError: something is missing or damaged."""
    known = read_manifest(home)
    wrong = []
    for model in models:
        problem = _damage(known.get(model), home)
        sys.stdout.write(f"{model}  {problem or 'as fetched'}\n")
        wrong += [model] if problem else []
    if wrong:
        raise WeightsError(f"weights of {', '.join(wrong)} are missing or damaged; run this again without --check.")
    return 0


def _damage(entry: CachedFile | None, home: Path) -> str:
    """What is wrong with a file of the manifest, '' when nothing is. A damaged one is removed, to be fetched again."""
    if entry is None or not (home / entry.path).is_file():
        return "missing"
    path = home / entry.path
    if path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256:
        return ""
    path.resolve().unlink()  # the file of the cache, to which the snapshot's name is a link
    path.unlink(missing_ok=True)
    return "damaged: removed"


if __name__ == "__main__":
    raise SystemExit(main())
