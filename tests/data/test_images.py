"""Real photographs in every form that people's folders hold come out upright and RGB, or with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpo.data.decode import Scratch, _by_opencv, _by_pillow, _by_simplejpeg, decode_into, decode_rgb
from hpo.data.images import BadImage, ImagePolicy, store, target_size
from hpo.errors import DataError

KEEP = ImagePolicy("jpeg", None, 1024)
ORIENTED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF value: the transposition that a camera held so has made


@pytest.fixture(scope="module")
def photograph(photographs: dict[str, list[bytes]]) -> bytes:
    return photographs["t-shirt"][2]


@pytest.fixture(scope="module")
def pixels(photograph: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photograph)).convert("RGB"))


def encode(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def stored(data: bytes | np.ndarray, policy: ImagePolicy = KEEP) -> np.ndarray:
    payload, shape = store(data, policy)
    found = decode_rgb(payload) if policy.encoding == "jpeg" else np.frombuffer(payload, np.uint8).reshape(shape)
    assert found.shape == shape
    return found


def difference(left: np.ndarray, right: np.ndarray) -> float:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """RGB with 16 bits a channel, which Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2") * 257)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_plain_jpeg_keeps_its_bytes(photograph: bytes) -> None:
    payload, shape = store(photograph, KEEP)
    assert payload == photograph
    assert shape == (*Image.open(io.BytesIO(photograph)).size[::-1], 3)


@pytest.mark.parametrize("form", ["progressive", "cmyk", "png", "webp", "bmp", "tiff", "png 16 bits", "array", "mpo"])
def test_colour_survives(form: str, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    data: bytes | np.ndarray = {
        "progressive": lambda: encode(image, "JPEG", quality=98, progressive=True),
        "cmyk": lambda: encode(image.convert("CMYK"), "JPEG", quality=98),
        "png": lambda: encode(image, "PNG"),
        "webp": lambda: encode(image, "WEBP", lossless=True),
        "bmp": lambda: encode(image, "BMP"),
        "tiff": lambda: encode(image, "TIFF"),
        "png 16 bits": lambda: png_of_16_bits(pixels),
        "array": lambda: pixels,
        "mpo": lambda: encode(image, "MPO", quality=98, save_all=True, append_images=[image.rotate(180)]),
    }[form]()
    payload, _ = store(data, KEEP)
    assert isinstance(data, np.ndarray) or payload != data
    assert difference(stored(data), pixels) < 2


@pytest.mark.parametrize(
    "form", ["jpeg", "png", "png 16 bits", "tiff 16 bits", "alpha", "array", "array of one channel"]
)
def test_grey_becomes_rgb(form: str, pixels: np.ndarray) -> None:
    grey = Image.fromarray(pixels).convert("L")
    values = np.asarray(grey)
    data = {
        "jpeg": lambda: encode(grey, "JPEG", quality=98),
        "png": lambda: encode(grey, "PNG"),
        "png 16 bits": lambda: encode(values.astype(np.uint16) * 257, "PNG"),
        "tiff 16 bits": lambda: encode(values.astype(np.uint16) * 257, "TIFF"),
        "alpha": lambda: encode(grey.convert("LA"), "PNG"),
        "array": lambda: values,
        "array of one channel": lambda: values[:, :, None],
    }[form]()
    assert difference(stored(data), np.repeat(values[:, :, None], 3, axis=2)) < 2


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palettes_become_rgb(kind: str, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)
    assert difference(stored(encode(image, kind)), np.asarray(image.convert("RGB"))) < 3


@pytest.mark.parametrize("how", ["rgba", "palette", "colour key"])
def test_what_is_transparent_is_white(how: str) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, 16:] = (200, 0, 0, 255)
    image = Image.fromarray(clear, "RGBA")
    if how == "rgba":
        data = encode(image, "PNG")
    elif how == "palette":
        flat = Image.new("P", (32, 32), 1)
        flat.putpalette([0, 0, 0, 200, 0, 0])
        flat.paste(0, (0, 0, 16, 32))
        data = encode(flat, "PNG", transparency=0)
    else:
        data = encode(image.convert("RGB"), "PNG", transparency=(0, 0, 0))
    found = stored(data).astype(int)
    assert (found[:, :12] > 245).all()
    assert (abs(found[:, 20:] - (200, 0, 0)) < 10).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", sorted(ORIENTED))
def test_exif_orientation_is_applied(kind: str, orientation: int, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(pixels).transpose(Image.Transpose(ORIENTED[orientation]))
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {})
    found = stored(encode(turned, kind, exif=exif, **options))
    assert difference(found, pixels) < 2
    raw = stored(encode(turned, kind, exif=exif, **options), ImagePolicy("raw", 32, None))
    assert difference(raw, stored(pixels, ImagePolicy("raw", 32, None))) < 4


def test_an_upright_exif_block_costs_nothing(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encode(pixels, "JPEG", exif=exif)
    assert store(data, KEEP)[0] == data


def damaged_forms(photograph: bytes, pixels: np.ndarray) -> dict[str, bytes]:
    cmyk = encode(Image.fromarray(pixels).convert("CMYK"), "JPEG")
    middle = len(photograph) // 2
    return {
        "empty": b"",
        "text": b"this is a text file\n" * 20,
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "truncated": photograph[:middle],
        "truncated, then ended well": photograph[:middle] + b"\xff\xd9",  # Pillow alone would fill it with grey
        "truncated cmyk, then ended well": cmyk[: len(cmyk) // 2] + b"\xff\xd9",
        "without its end": photograph[:-2],
        "overwritten": photograph[:middle] + b"\0" * 64 + photograph[middle + 64 :],
        "truncated png": encode(pixels, "PNG")[:3000],
        "truncated gif": encode(pixels, "GIF")[:2000],
        "truncated webp": encode(pixels, "WEBP")[:600],
        "float pixels": encode(Image.fromarray(pixels).convert("F"), "TIFF"),
    }


def test_damaged_files_are_refused_with_a_reason(photograph: bytes, pixels: np.ndarray) -> None:
    for form, data in damaged_forms(photograph, pixels).items():
        with pytest.raises(BadImage, match=r"\w{4}") as caught:
            store(data, KEEP)
        assert "\n" not in str(caught.value), form


def test_rubbish_between_segments_is_no_damage(photograph: bytes, pixels: np.ndarray) -> None:
    scan = photograph.index(b"\xff\xda")
    data = photograph[:scan] + b"\0\0" + photograph[scan:]
    assert store(data, KEEP)[0] != data
    assert difference(stored(data), pixels) < 2


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (KEEP, (300, 400)),
        (ImagePolicy("jpeg", None, 200), (150, 200)),
        (ImagePolicy("jpeg", 150, 200), (150, 200)),
        (ImagePolicy("jpeg", 600, None), (600, 800)),
        (ImagePolicy("raw", 64, 1024), (64, 85)),
        (ImagePolicy("jpeg", None, None), (300, 400)),
    ],
)
def test_target_size(policy: ImagePolicy, expected: tuple[int, int]) -> None:
    assert target_size(300, 400, policy) == expected
    assert target_size(400, 300, policy) == expected[::-1]


def test_raw_is_the_middle_square(pixels: np.ndarray) -> None:
    height, width, _ = pixels.shape
    found = stored(pixels, ImagePolicy("raw", width, None))
    top = (height - width) // 2
    assert (found == pixels[top : top + width]).all()


def test_small_images_keep_their_colour_resolution() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    assert difference(stored(stripes), stripes) < 3


def test_all_decoders_agree(photograph: bytes) -> None:
    expected = decode_rgb(photograph)
    assert expected.dtype == np.uint8
    for decoder in (_by_simplejpeg, _by_opencv, _by_pillow):
        assert difference(decoder(photograph), expected) < 1
        assert difference(decoder(memoryview(photograph)), expected) < 1


def test_no_row_is_decoded_around_the_cache(photograph: bytes) -> None:
    """Rows of images of even width never begin at a multiple of 32, whatever memory the thread gets."""
    expected, scratch = decode_rgb(photograph), Scratch()
    for count in (100, 5000, 40000, expected.size, 10 * expected.size):
        assert len(scratch.take(count)) >= count
        assert scratch.take(count).ctypes.data % 2 == 1
    found = decode_into(scratch, photograph, expected.shape[:2], None)
    assert found.ctypes.data == scratch.take(1).ctypes.data
    assert (found == expected).all()


def test_decoding_goes_on_where_simplejpeg_refuses(pixels: np.ndarray) -> None:
    assert (decode_rgb(encode(pixels, "PNG")) == pixels).all()


@pytest.mark.parametrize("data", [b"", b"not an image"])
def test_what_nobody_decodes_is_one_error(data: bytes) -> None:
    with pytest.raises(DataError, match=f"image of {len(data)} bytes cannot be decoded"):
        decode_rgb(data)
