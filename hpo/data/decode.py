"""Encoded image to pixels, by the fastest decoder at hand: simplejpeg, else OpenCV, else Pillow.

simplejpeg decodes JPEG 1.3 to 4 times faster than Pillow; the others are for what it refuses and for machines
without it. EXIF orientation is ignored: prepare.py stores images upright.
"""

from __future__ import annotations

import io

import numpy as np

from hpo.errors import DataError

Pixels = np.ndarray


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
