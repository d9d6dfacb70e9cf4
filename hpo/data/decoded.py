"""All pixels of a split, decoded once on each node into a file that every trial there maps: decoding is half and more
of the work of an image of few pixels.

They are the pixels that decoding gives, whole and not resized, so that a trial computes the same with and without. Only
what fits is decoded: see `room`. The file is removed as a node's copy of the data is.

    SLURMTUNE_DECODED_MB   MiB of pixels of a split to keep; 0: none. Default: a quarter of the memory, at most 32768
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpo.data.decode import Scratch, decode_into
from hpo.data.nodecopy import Filling, made_once
from hpo.data.pool import available_cpus
from hpo.errors import DataError, UsageError

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

DECODED_VARIABLE = "SLURMTUNE_DECODED_MB"
_PIXELS = "pixels.u8"
_SHARE = 4  # of the memory: the file's pages are to stay in it beside trials
_MOST = 32 * 2**30  # more takes minutes to decode, which a short trial would wait for
_AT_A_TIME = 64  # images of a thread

logger = logging.getLogger(__name__)


class Decoded:
    """`pixels(i)`: image `i`, uint8 (height, width, 3), in mapped memory: a write would change this process's copy."""

    def __init__(self, path: Path, heights: np.ndarray, widths: np.ndarray) -> None:
        """
        Raises:
            DataError: the file is not as large as the images.
        """
        sizes = heights * widths * 3
        self._ends = np.cumsum(sizes)
        self._starts = (self._ends - sizes).tolist()
        self._shapes = list(zip(heights.tolist(), widths.tolist(), strict=True))
        if path.stat().st_size != int(self._ends[-1]):
            raise DataError(f"{path} has {path.stat().st_size} bytes, not {self._ends[-1]}; remove it.")
        self._memory = np.memmap(path, np.uint8, "c").view(np.ndarray)  # torch wants it writable

    def pixels(self, i: int) -> np.ndarray:
        start, (height, width) = self._starts[i], self._shapes[i]
        return self._memory[start : start + height * width * 3].reshape(height, width, 3)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies images of one shape into a batch, uint8 (B, height, width, 3)."""
        np.take(self._memory.reshape(-1, *out.shape[1:]), indices, axis=0, out=out, mode="clip")


def decode_once(shards: ShardSet) -> Decoded | None:
    """The pixels of `shards`, decoded by whoever comes first; None where decoding costs nothing or there is no room.

    Raises:
        DataError: an image is damaged. UsageError: SLURMTUNE_DECODED_MB is no number.
    """
    if shards.columns or not shards.sized or shards.is_plain:
        return None
    needed = int((shards.heights * shards.widths).sum()) * 3
    if needed > room():
        return None
    name = hashlib.sha256(f"{shards.fingerprint} {shards.split}".encode()).hexdigest()[:16]
    filling = Filling(
        f"pixels-{name}", _PIXELS, needed, lambda folder: _decode(shards, folder / _PIXELS), "decoded into"
    )
    found, reasons = made_once(filling)
    if found is None:
        logger.info("the images of %s are not decoded once on this node (%s)", shards.directory, reasons)
        return None
    return Decoded(found / _PIXELS, shards.heights, shards.widths)


def room() -> int:
    """Bytes of pixels that a split may have.

    Raises:
        UsageError: SLURMTUNE_DECODED_MB is no number.
    """
    wanted = os.environ.get(DECODED_VARIABLE)
    if wanted:
        try:
            return max(0, int(float(wanted) * 2**20))
        except ValueError:
            raise UsageError(f"{DECODED_VARIABLE} must be a number of MiB, got {wanted!r}.") from None
    return min(_memory() // _SHARE, _MOST)


def _memory() -> int:
    """Of this node, or of the job where its control group says less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in _own_groups():
        _, controllers, group = line.split(":", 2)
        name = "memory.max" if not controllers else "memory/memory.limit_in_bytes" if controllers == "memory" else ""
        if not name:
            continue
        root, file = Path("/sys/fs/cgroup", *name.split("/")[:-1]), name.split("/")[-1]
        for folder in (Path(group.strip("/")), *Path(group.strip("/")).parents):
            with contextlib.suppress(OSError, ValueError):  # 'max'
                limits.append(int((root / folder / file).read_text(encoding="ascii")))
    return min(limits)


def _own_groups() -> list[str]:
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _decode(shards: ShardSet, path: Path) -> None:
    """Writes all pixels in order; each thread some images at their place."""
    sizes = shards.heights * shards.widths * 3
    starts, scratch = np.cumsum(sizes) - sizes, Scratch()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(first: int) -> None:
        for i in range(first, min(first + _AT_A_TIME, len(shards))):
            pixels = _pixels(shards, i, scratch)
            if os.pwrite(handle, pixels.data, int(starts[i])) != pixels.nbytes:
                raise OSError(0, "no room for all pixels")

    try:
        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(write, range(0, len(shards), _AT_A_TIME)))
    finally:
        os.close(handle)


def _pixels(shards: ShardSet, i: int, scratch: Scratch) -> np.ndarray:
    if shards.image_shape is not None:
        return np.ascontiguousarray(shards.pixels(i))
    try:
        return decode_into(scratch, shards.read_bytes(i), (int(shards.heights[i]), int(shards.widths[i])), None)
    except DataError as error:
        raise DataError(f"{shards.name(i)} cannot be decoded: {error}") from None
