"""Some images of a source, read and brought into stored form: the work of one task in a worker process."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.data.images import BadImage, ImagePolicy, store
from hpo.data.listing import Loader, Reference

DIGEST_SIZE = 16  # bytes of blake2b: enough to tell images apart, small enough to hold for millions


@dataclass(frozen=True)
class Chunk:
    """Images to convert; everything a worker process needs to know."""

    loader: Loader
    policy: ImagePolicy
    ids: np.ndarray  # uint64 (n,), positions in the source's listing
    references: Sequence[Reference]


@dataclass(frozen=True)
class Converted:
    """The readable images of a chunk, in its order, and the ids and reasons of the others."""

    payload: bytes
    sizes: np.ndarray  # uint64 (n,), bytes of each image in `payload`
    shapes: np.ndarray  # uint16 (n, 3)
    crc32: np.ndarray  # uint32 (n,)
    ids: np.ndarray  # uint64 (n,)
    digests: bytes  # DIGEST_SIZE for each image
    skipped: list[tuple[int, str]]

    @property
    def done(self) -> int:
        return len(self.ids) + len(self.skipped)


def convert(chunk: Chunk) -> Converted:
    """Reads and converts every image of the chunk; one that cannot be read is listed in `skipped`."""
    stored: list[tuple[int, bytes, tuple[int, int, int]]] = []
    skipped: list[tuple[int, str]] = []
    for number, reference in zip(chunk.ids.tolist(), chunk.references, strict=True):
        try:
            payload, shape = store(chunk.loader.load(reference), chunk.policy)
        except BadImage as reason:
            skipped.append((number, str(reason)))
        else:
            stored.append((number, payload, shape))
    return Converted(
        payload=b"".join(payload for _, payload, _ in stored),
        sizes=np.array([len(payload) for _, payload, _ in stored], np.uint64),
        shapes=np.array([shape for _, _, shape in stored], np.uint16).reshape(-1, 3),
        crc32=np.array([zlib.crc32(payload) for _, payload, _ in stored], np.uint32),
        ids=np.array([number for number, _, _ in stored], np.uint64),
        digests=b"".join(digest(payload) for _, payload, _ in stored),
        skipped=skipped,
    )


def digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_SIZE).digest()
