"""What a webdataset shard's members are called, and where a tar ends. Standard library only: clipctl checks shards."""

from __future__ import annotations

import os
from typing import IO

IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")  # open_clip's
TEXT_SUFFIX = "txt"
JSON_SUFFIX = "json"  # img2dataset's facts
SAFETY_TAG = "punsafe"  # LAION's, in the json: from 0 (surely safe) to 1
TAR_BLOCK = 512  # bytes


def ends_well(file: IO[bytes]) -> bool:
    """tarfile takes a damaged header, or the lack of one, for the archive's end: it is one where only zeros follow."""
    while rest := file.read(1 << 20):
        if rest.strip(b"\0"):
            return False
    file.seek(-TAR_BLOCK, os.SEEK_END)
    return not file.read().strip(b"\0")
