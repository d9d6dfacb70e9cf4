"""Some samples of a source, their images read and brought into stored form: one task of a worker process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.data.checksum import crc32
from hpo.data.images import BadImage, ImagePolicy, store
from hpo.data.listing import NO_IMAGE, Loader, Reference

DIGEST_SIZE = 16  # bytes of blake2b: enough to tell images apart, small enough to hold for millions

_Stored = tuple[bytes, tuple[int, int, int]]  # what images.store gives


@dataclass(frozen=True)
class Chunk:
    """Samples to convert; everything a worker process needs to know."""

    loader: Loader
    policy: ImagePolicy
    ids: np.ndarray  # uint64 (n,), positions in the source's listing
    references: Sequence[Sequence[Reference]]  # for each image column one of each sample; NO_IMAGE: it has none


@dataclass(frozen=True)
class StoredImages:
    """One image column of some samples. An image that is not there has the shape (0, 0, 0)."""

    payload: bytes
    sizes: np.ndarray  # uint64 (n,), bytes of each image in `payload`
    shapes: np.ndarray  # uint16 (n, 3)
    crc32: np.ndarray  # uint32 (n,)


@dataclass(frozen=True)
class Converted:
    """The readable samples of a chunk, in its order, and the ids and reasons of the others."""

    columns: tuple[StoredImages, ...]
    ids: np.ndarray  # uint64 (n,)
    digests: bytes  # DIGEST_SIZE for each sample
    skipped: list[tuple[int, str]]

    @property
    def done(self) -> int:
        return len(self.ids) + len(self.skipped)


def convert(chunk: Chunk) -> Converted:
    """Reads and converts every image of the chunk; a sample with one that cannot be read is listed in `skipped`."""
    rows: list[tuple[int, list[_Stored]]] = []
    skipped: list[tuple[int, str]] = []
    for number, *references in zip(chunk.ids.tolist(), *chunk.references, strict=True):
        try:
            rows.append((number, [_store(chunk, reference) for reference in references]))
        except BadImage as reason:
            skipped.append((number, str(reason)))
    return Converted(
        columns=tuple(_gather([images[place] for _, images in rows]) for place in range(len(chunk.references))),
        ids=np.array([number for number, _ in rows], np.uint64),
        digests=b"".join(_digest(number, images) for number, images in rows),
        skipped=skipped,
    )


def _store(chunk: Chunk, reference: Reference) -> _Stored:
    if reference != NO_IMAGE:
        try:
            return store(chunk.loader.load(reference), chunk.policy)
        except BadImage as reason:
            raise BadImage(f"{reference}: {reason}" if len(chunk.references) > 1 else str(reason)) from None
    side = chunk.policy.size if chunk.policy.encoding == "raw" else 0  # raw images lie at fixed distances
    return bytes(3 * (side or 0) ** 2), (0, 0, 0)


def _gather(images: Sequence[_Stored]) -> StoredImages:
    return StoredImages(
        payload=b"".join(payload for payload, _ in images),
        sizes=np.array([len(payload) for payload, _ in images], np.uint64),
        shapes=np.array([shape for _, shape in images], np.uint16).reshape(-1, 3),
        crc32=np.array([crc32(payload) for payload, _ in images], np.uint32),
    )


def _digest(number: int, images: Sequence[_Stored]) -> bytes:
    """Of the images; a sample without any is like no other."""
    if len(images) == 1 and any(images[0][1]):
        return digest(images[0][0])
    present = [digest(payload) if any(shape) else bytes(DIGEST_SIZE) for payload, shape in images]
    return digest(b"".join(present) if any(map(any, present)) else f"no image {number}".encode())


def digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_SIZE).digest()


def joined(parts: Iterable[StoredImages], name: str) -> np.ndarray:
    """One of the arrays of several parts, one after the other."""
    return np.concatenate([getattr(part, name) for part in parts])
