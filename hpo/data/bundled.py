"""The photographs that come with the program, as a data directory: for the demo, and for a sweep without data."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from hpo.data.listener import Progress, Tell, be_quiet
from hpo.data.manifest import describe, read_manifest
from hpo.data.plan import Recipe
from hpo.data.sources import find_source
from hpo.data.write import prepare
from hpo.errors import DataError, UsageError
from hpo.layout import sync_folder

ARCHIVE = Path(__file__).resolve().parents[2] / "launch" / "demo" / "clothing.zip"  # so in a checkout and installed
RECIPE = Recipe(encoding="raw", size=64)
_ABANDONED = 3600  # seconds after which a temporary directory is nobody's: building takes some of them


def ensure_demo_data(directory: Path, tell: Tell = be_quiet, progress: Progress = be_quiet) -> Path:
    """The bundled photographs in `directory` as raw 64 x 64 shards; makes them if they are not there.

    Any number of processes, on any number of nodes that share the file system, may call this at once: each builds in a
    directory of its own, the first to rename it wins, the others use the winner's.

    Raises:
        UsageError: `directory` holds something else.
        DataError: the bundled archive is missing or damaged.
    """
    if _is_there(directory):
        return directory
    if not ARCHIVE.is_file():
        raise DataError(f"the bundled images {ARCHIVE} are missing; install slurmtune again.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made ({error}); name another directory.") from None
    _remove_abandoned(directory)
    building = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:12]}.building"
    try:
        prepare(find_source(ARCHIVE), building, RECIPE, tell=tell, progress=progress)
        try:
            building.rename(directory)
            sync_folder(directory.parent)
        except OSError:  # somebody was first, or something else is there
            if not _is_there(directory):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def _is_there(directory: Path) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        describe(directory)
    except DataError:
        raise UsageError(f"{directory} holds something else than the bundled images; name another directory.") from None
    if Path(read_manifest(directory).source.get("path", "")).name != ARCHIVE.name:
        raise UsageError(f"{directory} holds other data than the bundled images; name another directory.")
    return True


def _remove_abandoned(directory: Path) -> None:
    """Clears away what killed builds left beside `directory`."""
    for left in directory.parent.glob(f".{directory.name}.*.building"):
        try:
            old = time.time() - left.stat().st_mtime > _ABANDONED
        except OSError:
            continue  # its owner was faster
        if old:
            shutil.rmtree(left, ignore_errors=True)
