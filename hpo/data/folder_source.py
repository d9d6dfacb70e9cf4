"""Images in folders by class, on disk or in a zip file: DIR/CLASS/... or DIR/{train,validation,test}/CLASS/..."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from hpo.data.images import BadImage
from hpo.data.listing import Listing, Reference, Source, split_of
from hpo.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Entry = tuple[str, int]  # path below the root with '/', bytes


@dataclass(frozen=True)
class FileLoader:
    """Reads files below `root`; an absolute reference stands for itself."""

    root: str

    def load(self, reference: Reference) -> bytes:
        try:
            return Path(self.root, str(reference)).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null character in a name from a CSV file
            raise BadImage(getattr(error, "strerror", None) or str(error)) from None


@dataclass(frozen=True)
class ZipLoader:
    """Reads members of a zip file where it lies: nothing is unpacked, so no member can land outside of a folder."""

    path: str
    prefix: str
    mtime_ns: int  # a file replaced under the same name is opened anew

    def load(self, reference: Reference) -> bytes:
        try:
            return _open_zip(self.path, self.mtime_ns).read(f"{self.prefix}{reference}")
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, KeyError, EOFError) as error:
            raise BadImage(f"in the zip file: {error}") from None


@functools.lru_cache(maxsize=1)
def _open_zip(path: str, mtime_ns: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def from_folder(root: Path) -> Source:
    """Lists a folder of class folders.

    Raises:
        DataError: no images in class folders, or a folder that cannot be read.
    """
    entries = sorted(_walk(root))
    listing, notes = _arrange(entries, str(root))
    return Source("folder", str(root.absolute()), listing, FileLoader(str(root.absolute())), notes=notes)


def from_zip(path: Path) -> Source:
    """Lists a zip file of class folders, with or without one folder around everything.

    Raises:
        DataError: not a zip file, or no images in class folders.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename, info.file_size) for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip file ({error}).") from None
    entries = sorted(entry for entry in members if _is_image(entry[0]))
    prefix = _shared_folder(entries)
    listing, notes = _arrange([(name[len(prefix) :], size) for name, size in entries], str(path))
    loader = ZipLoader(str(path.absolute()), prefix, path.stat().st_mtime_ns)
    return Source("zip", str(path.absolute()), listing, loader, notes=notes)


def _walk(root: Path) -> Iterator[Entry]:
    """Every image below `root`, links followed, each folder once (a link may lead back up)."""
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as children:
                for child in children:
                    if child.name.startswith("."):
                        continue
                    if child.is_dir():
                        waiting.append((folder / child.name, f"{prefix}{child.name}/"))
                    elif _is_image(child.name):
                        yield f"{prefix}{child.name}", _size(child)
        except OSError as error:
            raise DataError(f"folder {folder} cannot be read: {error.strerror}.") from None


def _size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # a link to nowhere: reading it will say so


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not hidden and name.lower().endswith(EXTENSIONS)


def _shared_folder(entries: list[Entry]) -> str:
    """'name/' when one folder surrounds everything and is no class or split itself, else ''."""
    first = {name.split("/")[0] for name, _ in entries}
    deep = all(name.count("/") >= 2 for name, _ in entries)
    if len(first) != 1 or not deep or split_of(next(iter(first))):
        return ""
    return f"{next(iter(first))}/"


def _arrange(entries: list[Entry], where: str) -> tuple[Listing, tuple[str, ...]]:
    """Splits and classes of listed files, from the names of their folders."""
    tops = {name.split("/")[0] for name, _ in entries if "/" in name}
    depth = 1 if _are_splits(tops) else 0
    kept: list[tuple[str, int, str | None, str]] = []
    unlabelled = elsewhere = 0
    for name, size in entries:
        parts = name.split("/")
        split = split_of(parts[0]) if depth else None
        if len(parts) < depth + 2:
            unlabelled += 1
        elif depth and split is None:
            elsewhere += 1
        else:
            kept.append((name, size, split, parts[depth]))
    if not kept:
        raise DataError(
            f"{where} has no images in class folders (CLASS/*.jpg or train/CLASS/*.jpg); "
            f"{len(entries)} images were found elsewhere in it. Images with labels in a table: give the CSV file."
        )
    names = sorted({label for *_, label in kept})
    number_of = {name: number for number, name in enumerate(names)}
    listing = Listing(
        references=[name for name, *_ in kept],
        task="classification",
        labels=np.array([number_of[label] for *_, label in kept], np.int64),
        class_names=names,
        splits=[split for _, _, split, _ in kept],
        sizes=np.array([size for _, size, *_ in kept], np.int64),
    )
    return listing, _notes(listing, unlabelled, elsewhere)


def _are_splits(folders: set[str]) -> bool:
    """'train' beside 'val' or 'test', or alone. {train, car, bus} are classes."""
    splits = {split_of(name) for name in folders}
    return "train" in splits and (len(splits) == 1 or bool(splits & {"validation", "test"}))


def _notes(listing: Listing, unlabelled: int, elsewhere: int) -> tuple[str, ...]:
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled} images lie outside of any class folder and are left out.")
    if elsewhere:
        notes.append(f"{elsewhere} images lie beside train, validation and test and are left out.")
    trained = Counter(
        number
        for number, split in zip(listing.labels.tolist(), listing.splits, strict=True)
        if split in (None, "train")
    )
    missing = [name for number, name in enumerate(listing.class_names) if not trained[number]]
    if missing:
        notes.append(f"no training image of class {', '.join(map(repr, missing[:5]))}: it cannot be learned.")
    return tuple(notes)
