"""What the `.json` members of img2dataset say of a sample's safety, and how many say it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from trainer.members import SAFETY_TAG

NSFW_VALUES = ("UNLIKELY", "UNSURE", "NSFW")  # LAION's
OTHER = "other"


@dataclass
class Tags:
    """Counts of samples."""

    json: int = 0  # with a .json member that can be read
    punsafe: int = 0  # with that tag, a number
    nsfw: int = 0
    punsafe_tenths: Counter[str] = field(default_factory=Counter)  # by lower bound: "0.0" to "1.0"
    nsfw_values: Counter[str] = field(default_factory=Counter)

    def count(self, content: bytes) -> bool:
        """False: it is no JSON object."""
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError):
            return False
        if not isinstance(facts, dict):
            return False
        self.json += 1
        punsafe, nsfw = facts.get(SAFETY_TAG), facts.get("NSFW")
        if isinstance(punsafe, (int, float)) and 0 <= punsafe <= 1:  # NaN is not
            self.punsafe += 1
            self.punsafe_tenths[f"{int(punsafe * 10) / 10:.1f}"] += 1
        if isinstance(nsfw, str):
            self.nsfw += 1
            self.nsfw_values[nsfw if nsfw in NSFW_VALUES else OTHER] += 1
        return True

    def add(self, other: Tags) -> None:
        self.json += other.json
        self.punsafe += other.punsafe
        self.nsfw += other.nsfw
        self.punsafe_tenths += other.punsafe_tenths
        self.nsfw_values += other.nsfw_values

    def unsafe(self, tenths: int) -> int:
        """Samples whose punsafe is `tenths` tenths or more."""
        return sum(number for bound, number in self.punsafe_tenths.items() if float(bound) >= tenths / 10)
