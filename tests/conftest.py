"""What every part of the suite shares."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def soak() -> Callable[[int, int], int]:
    """`soak(short, long)`: how often, in an ordinary run and in `make soak` (CLIPCTL_SOAK=1)."""
    return lambda short, long: long if os.environ.get("CLIPCTL_SOAK") == "1" else short
