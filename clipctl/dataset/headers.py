"""How large an image is, by its first bytes: no pixel is decoded, so that a bomb stays what it is, a few numbers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

BOMB_PIXELS = 178_956_970  # Pillow refuses to open what has more

_PNG, _WEBP_CHUNK = b"\x89PNG\r\n\x1a\n", 20  # where the payload of a WebP's first chunk begins
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables, a reserved one, arithmetic conditions
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
_RESERVED, _SCAN = range(0x02, 0xC0), 0xDA


@dataclass(frozen=True)
class ImageHeader:
    format: str  # as Pillow calls it
    width: int  # pixels
    height: int

    @property
    def is_bomb(self) -> bool:
        return self.width * self.height > BOMB_PIXELS


def image_header(content: bytes) -> ImageHeader:
    """ValueError says what is wrong with it, or that it is no JPEG, PNG, WebP or GIF."""
    for begins, format_name, size in (
        (content.startswith(b"\xff\xd8\xff"), "JPEG", _jpeg),
        (content.startswith(_PNG), "PNG", _png),
        (content.startswith(b"RIFF") and content[8:12] == b"WEBP", "WEBP", _webp),
        (content.startswith((b"GIF87a", b"GIF89a")), "GIF", _gif),
    ):
        if begins:
            width, height = size(content)
            if not width or not height:
                raise ValueError(f"a {format_name} of {width} x {height} pixels")
            return ImageHeader(format_name, width, height)
    raise ValueError(f"no JPEG, PNG, WebP or GIF: it begins with {content[:16]!r}" if content else "it is empty")


def _jpeg(content: bytes) -> tuple[int, int]:
    """Segment by segment: a thumbnail in the EXIF data, or a table, is stepped over."""
    at = 2
    while True:
        at = content.find(b"\xff", at)  # bytes that belong to nothing are allowed before a marker
        while content[at : at + 1] == b"\xff":
            at += 1
        marker = _number(content, at, 1) if at > 0 else _SCAN  # none follows
        if marker in _START_OF_FRAME:
            return _number(content, at + 6, 2), _number(content, at + 4, 2)
        if marker == _SCAN or marker in _RESERVED:
            raise ValueError("a JPEG without a frame")
        at += 1 if marker in _WITHOUT_LENGTH else 1 + max(2, _number(content, at + 1, 2))


def _png(content: bytes) -> tuple[int, int]:
    if content[8:16] != b"\0\0\0\rIHDR" or zlib.crc32(content[12:29]) != _number(content, 29, 4):
        raise ValueError("a PNG whose header is damaged")
    return _number(content, 16, 4), _number(content, 20, 4)


def _webp(content: bytes) -> tuple[int, int]:
    """Lossy, lossless or extended: each has its own way to say its size."""
    chunk, at = content[12:16], _WEBP_CHUNK
    if chunk == b"VP8 " and content[at + 3 : at + 6] == b"\x9d\x01\x2a":
        return _number(content, at + 6, 2, "little") & 0x3FFF, _number(content, at + 8, 2, "little") & 0x3FFF
    if chunk == b"VP8L" and content[at : at + 1] == b"\x2f":
        both = _number(content, at + 1, 4, "little")
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        return _number(content, at + 4, 3, "little") + 1, _number(content, at + 7, 3, "little") + 1
    raise ValueError("a WebP whose header is damaged")


def _gif(content: bytes) -> tuple[int, int]:
    return _number(content, 6, 2, "little"), _number(content, 8, 2, "little")


def _number(content: bytes, at: int, length: int, order: str = "big") -> int:
    part = content[at : at + length]
    if len(part) < length:
        raise ValueError("it is cut within its header")
    return int.from_bytes(part, "little" if order == "little" else "big")
