"""What any image file becomes in a shard: upright 8-bit RGB, as JPEG or as pixels of one size.

A baseline RGB JPEG that is upright and small enough keeps its bytes. Everything else is decoded and stored anew:
    grey, palette, CMYK, YCbCr, LAB   converted to RGB by Pillow
    transparency                      laid over white
    16-bit grey                       scaled by 1/257 (the full range of 16 bits, whatever the image uses of it)
    EXIF orientation                  applied
    animations, multi-page files      first frame
Refused with the reason: damaged or truncated files, 32-bit integer and float pixels (they have no agreed range),
more than 179 megapixels (Pillow's limit).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

QUALITY = 95
_FULL_CHROMA_BELOW = 128  # px, short side: there 4:2:0 costs visible colour and saves few bytes
_ORIENTATION = 0x0112
# By content, whatever the file's name says. Not all of Pillow's: its EPS reader, for one, starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """An image that cannot be stored; the text is the reason given in skipped.csv."""


@dataclass(frozen=True)
class ImagePolicy:
    """`encoding` 'jpeg', 'raw', or 'link': pixels of images that stay elsewhere. With `size` the short side becomes so
    many pixels, and of raw images the middle square is kept; without, a long side above `max_side` is shrunk to it.
    None: as it is."""

    encoding: str
    size: int | None
    max_side: int | None


AS_IT_IS = ImagePolicy("link", None, None)


def store(content: bytes | np.ndarray, policy: ImagePolicy) -> tuple[bytes, tuple[int, int, int]]:
    """The bytes to store for one image, and their (height, width, 3).

    Args:
        content: an encoded file, or uint8 pixels (height, width[, 1, 3 or 4]).
    Raises:
        BadImage: the image cannot be read.
    """
    try:
        if isinstance(content, np.ndarray):
            return _pack(_flatten(_from_pixels(content)), policy)
        return _store_file(content, policy)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # what a damaged file makes a decoder raise has no limit; it is reported, not hidden
        raise BadImage(f"{_plain(error)}") from error


def target_size(width: int, height: int, policy: ImagePolicy) -> tuple[int, int]:
    """(width, height) to scale to, before any crop."""
    if policy.size is not None:
        scale = policy.size / min(width, height)
    elif policy.max_side is not None and max(width, height) > policy.max_side:
        scale = policy.max_side / max(width, height)
    else:
        return width, height
    return max(1, round(width * scale)), max(1, round(height * scale))


def _store_file(data: bytes, policy: ImagePolicy) -> tuple[bytes, tuple[int, int, int]]:
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage("not an image of a known format (JPEG, PNG, WebP, BMP, GIF, TIFF)") from None
    with image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            return _store_jpeg(image, data, policy)
        if image.format in ("JPEG", "MPO"):
            simplejpeg.decode_jpeg(data, "CMYK")  # for its strictness; Pillow knows Adobe's inverted CMYK
        image.load()
        return _pack(_flatten(ImageOps.exif_transpose(image)), policy)


def _store_jpeg(image: Image.Image, data: bytes, policy: ImagePolicy) -> tuple[bytes, tuple[int, int, int]]:
    resized = target_size(image.width, image.height, policy)
    turn = _UPRIGHT.get(_orientation(image))
    pixels = _decode_jpeg(data, resized)
    if pixels is None:
        return _pack(image.convert("RGB"), policy, resized, turn)
    plain = image.format == "JPEG" and image.mode == "RGB" and "progressive" not in image.info
    if plain and policy.encoding == "jpeg" and turn is None and resized == image.size:
        return data, (image.height, image.width, 3)
    return _pack(Image.fromarray(pixels), policy, resized, turn)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1  # a broken EXIF block turns no image and costs none


def _decode_jpeg(data: bytes, wanted: tuple[int, int]) -> np.ndarray | None:
    """Pixels of a JPEG, at least twice the (width, height) wanted where the file allows it: DCT scaling costs nothing.

    Strict, unlike Pillow, which fills what is missing with grey when the file only ends well. None for a file that is
    whole but has rubbish between its segments: that is for Pillow.
    """
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_width=2 * wanted[0], min_height=2 * wanted[1])
    except ValueError as error:
        if "extraneous bytes" in str(error):
            return None
        raise


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if min(pixels.shape[:2]) < 1:
        raise BadImage(f"no pixels, shape {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _flatten(image: Image.Image) -> Image.Image:
    """`image` as 8-bit RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillow reads these as I
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage(f"{'integer' if image.mode == 'I' else 'float'} pixels of 32 bits have no agreed range")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _pack(
    image: Image.Image,
    policy: ImagePolicy,
    resized: tuple[int, int] | None = None,
    turn: Image.Transpose | None = None,
) -> tuple[bytes, tuple[int, int, int]]:
    resized = resized or target_size(image.width, image.height, policy)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    if turn is not None:
        image = image.transpose(turn)
    if policy.encoding == "raw":
        image = _middle_square(image)
    pixels = np.ascontiguousarray(image)
    if policy.encoding != "jpeg":
        return pixels.tobytes(), (pixels.shape[0], pixels.shape[1], 3)
    chroma = "444" if min(pixels.shape[:2]) < _FULL_CHROMA_BELOW else "420"
    encoded = simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", chroma)
    return encoded, (pixels.shape[0], pixels.shape[1], 3)


def _middle_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _plain(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    expected = isinstance(error, (OSError, ValueError, SyntaxError)) and text
    return text if expected else f"{type(error).__name__}: {text}"
