"""LAION's safety tag: the `punsafe` of a sample's json member, from 0 (surely safe) to 1.

Safe must be shown: a sample without the tag, or with one that is no number, is left out like one above the threshold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainer.members import JSON_SUFFIX, SAFETY_TAG

UNTAGGED = f"without a number {SAFETY_TAG} in its json"


def why_left_out(sample: Mapping[str, Any], max_punsafe: float) -> str | None:
    """None: its tag is below the threshold."""
    tag = _tag(sample.get(JSON_SUFFIX, b""))
    if tag is None:
        return UNTAGGED
    return None if tag < max_punsafe else f"with {SAFETY_TAG} not below {max_punsafe:g}"


def _tag(text: bytes) -> float | None:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deep
        return None
    tag = facts.get(SAFETY_TAG) if isinstance(facts, dict) else None
    return float(tag) if isinstance(tag, (int, float)) and not isinstance(tag, bool) else None
