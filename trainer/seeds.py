"""Random numbers that are functions of a place in the run: any place can be reached again without saved state."""

from __future__ import annotations

import hashlib


def seed_for(*place: str | int) -> int:
    """63 bits from the words and numbers that name a place; the same on every machine and Python."""
    text = "/".join(str(part) for part in place)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
