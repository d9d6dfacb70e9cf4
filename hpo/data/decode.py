"""Encoded image to pixels, by the fastest decoder at hand: simplejpeg, else OpenCV, else Pillow.

simplejpeg decodes JPEG 1.3 to 4 times faster than Pillow; the others are for what it refuses and for machines
without it. All three give the same pixels. EXIF orientation is ignored: prepare.py stores images upright.
"""

from __future__ import annotations

import io
import threading

import numpy as np

from hpo.errors import DataError

Pixels = np.ndarray


class Scratch(threading.local):
    """Memory that each thread decodes into again and again: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, count: int) -> np.ndarray:
        """At least `count` bytes, good until this thread's next `take`."""
        if len(self._memory) < count:
            self._memory = _odd(count)
        return self._memory


def _odd(count: int) -> np.ndarray:
    """`count` bytes from an odd address on. Rows that begin at a multiple of 32 libjpeg-turbo writes around the cache,
    so that whoever resizes them next waits for memory: at 64 pixels 60 microseconds an image instead of 46."""
    memory = np.empty(count + 1, np.uint8)
    return memory[1 - memory.ctypes.data % 2 :]


def decode_rgb(data: bytes | memoryview) -> Pixels:
    """The pixels of one encoded image, uint8 (height, width, 3), RGB.

    Raises:
        DataError: none of the decoders can read it.
    """
    reasons = []
    for decoder in (_by_simplejpeg, _by_opencv, _by_pillow):
        try:
            return decoder(data)
        except (ImportError, ValueError, OSError) as error:
            reasons.append(str(error))
    raise DataError(f"an image of {len(data)} bytes cannot be decoded ({'; '.join(reasons)}); run prepare.py --check.")


def decode_into(scratch: Scratch, data: bytes, shape: tuple[int, int], at_least: tuple[int, int] | None) -> Pixels:
    """As `decode_rgb`, in the memory of `scratch`, for an image known to be of `shape` (height, width).

    With `at_least` (height, width) a JPEG may come smaller, by a half or more, if that many pixels remain: scaling in
    the DCT domain saves work and averages as a shrinking resize would.

    Raises:
        DataError: it cannot be decoded, or is of another shape.
    """
    height, width = shape
    try:
        import simplejpeg

        memory = scratch.take(height * width * 3)
        if at_least is None:
            found = simplejpeg.decode_jpeg(data, "RGB", buffer=memory)
        else:
            low, narrow = at_least
            found = simplejpeg.decode_jpeg(data, "RGB", min_height=low, min_width=narrow, min_factor=2, buffer=memory)
    except (ImportError, ValueError):
        found = decode_rgb(data)
    expected = (
        [shape] if at_least is None else [shape, *((-(-height * m // 8), -(-width * m // 8)) for m in range(1, 5))]
    )
    if found.shape[:2] not in expected:
        raise DataError(f"it is {found.shape[1]} x {found.shape[0]} pixels, not {width} x {height}")
    return found


def _by_simplejpeg(data: bytes | memoryview) -> Pixels:
    import simplejpeg

    return simplejpeg.decode_jpeg(data, "RGB")


def _by_opencv(data: bytes | memoryview) -> Pixels:
    import cv2

    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # an empty buffer raises, a wrong one returns None
        raise ValueError(f"OpenCV: {error.err}") from None
    if found is None:
        raise ValueError("OpenCV: not an image")
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def _by_pillow(data: bytes | memoryview) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
