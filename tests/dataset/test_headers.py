"""The size of an image is what Pillow says it is, for every kind of file that Pillow writes."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import pytest
from PIL import Image

from clipctl.dataset.headers import BOMB_PIXELS, image_header
from tests.dataset.tars import image

SIZES = [(1, 1), (7, 300), (300, 7), (257, 255)]


def thumbnail() -> bytes:
    """EXIF data with a whole JPEG of another size in it, as cameras write them."""
    inside = image(160, 120, format="JPEG")
    begin = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHLL", 1, 0x0112, 3, 1, 6 << 16) + struct.pack(">L", 26)
    return begin + struct.pack(">HHHLLHHLLL", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(inside), 0) + inside


KINDS = {
    "jpeg": {"format": "JPEG"},
    "progressive jpeg": {"format": "JPEG", "progressive": True},
    "jpeg with a thumbnail": {"format": "JPEG", "exif": thumbnail()},
    "jpeg with a large profile": {"format": "JPEG", "icc_profile": b"\xff\xc0" * 100_000},
    "jpeg with a comment": {"format": "JPEG", "comment": b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01"},
    "jpeg with restarts": {"format": "JPEG", "restart_marker_blocks": 1},
    "grey jpeg": {"format": "JPEG", "mode": "L"},
    "cmyk jpeg": {"format": "JPEG", "mode": "CMYK"},
    "png": {"format": "PNG"},
    "png with palette": {"format": "PNG", "mode": "P"},
    "png with alpha": {"format": "PNG", "mode": "RGBA"},
    "lossy webp": {"format": "WEBP"},
    "lossless webp": {"format": "WEBP", "lossless": True},
    "webp with alpha and exif": {"format": "WEBP", "mode": "RGBA", "exif": thumbnail()},
    "gif": {"format": "GIF", "mode": "P"},
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_pillows(kind: str, size: tuple[int, int]) -> None:
    content = image(*size, **KINDS[kind])
    with Image.open(io.BytesIO(content)) as opened:
        expected = opened.format, *opened.size
    header = image_header(content)
    assert (header.format, header.width, header.height) == expected == (KINDS[kind]["format"], *size)


@pytest.mark.parametrize("between", [b"\xff\xc4\0\x03\0", b"\xff" * 5 + b"\xfe\0\x04\xff\xc0", b"\xff\xcc\0\x04\0\x01"])
def test_a_table_a_comment_or_padding_before_the_frame_is_stepped_over(between: bytes) -> None:
    content = image(300, 7, format="JPEG")
    header = image_header(content[:2] + between + content[2:])
    assert (header.width, header.height) == (300, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_is_cut_is_told_and_never_guessed(kind: str) -> None:
    content = image(300, 7, **KINDS[kind])
    for length in range(min(len(content), 2000)):
        try:
            header = image_header(content[:length])
        except ValueError:
            continue
        assert (header.width, header.height) == (300, 7)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "no JPEG, PNG, WebP or GIF: it begins with b'<!DOCTYPE html><'"),
        (b"\xff\xd8\xff\xd9", "a JPEG without a frame"),
        (b"\xff\xd8\xff\xda\0\x08\x01\x01\0\0\x3f\0", "a JPEG without a frame"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG without a frame"),
        (image()[:20] + b"\1" + image()[21:], "a PNG whose header is damaged"),
        (b"RIFF\x1a\0\0\0WEBPVP8 \x0e\0\0\0" + bytes(14), "a WebP whose header is damaged"),
        (b"GIF89a\0\0\5\0", "a GIF of 0 x 5 pixels"),
    ],
)
def test_what_is_no_image_is_said_in_a_line(content: bytes, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        image_header(content)
    assert str(raised.value) == words


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    header = b"IHDR" + struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">L", len(each) - 4) + each + struct.pack(">L", zlib.crc32(each)) for each in (header, idat))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("width", [50_000 * 50_000, BOMB_PIXELS + 1, BOMB_PIXELS])
def test_a_bomb_is_what_pillow_refuses(width: int) -> None:
    content = claiming(width, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            Image.open(io.BytesIO(content)).close()
            refused = False
        except Image.DecompressionBombError:
            refused = True
    assert image_header(content).is_bomb is refused is (width > BOMB_PIXELS)
