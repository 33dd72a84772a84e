"""Small real shards, written member by member, and the images in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def image(width: int = 6, height: int = 4, *, format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """Not one colour alone, or formats would save the same few bytes for all sizes."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def member(name: str, content: bytes = b"", **header: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    return info, content


def write_tar(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def write_samples(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    return write_tar(
        path, (member(f"{key}.{suffix}", each) for key, parts in samples.items() for suffix, each in parts.items())
    )


def pair(number: int = 0) -> dict[str, bytes]:
    return {"jpg": image(format="JPEG"), "txt": f"picture {number}".encode()}
