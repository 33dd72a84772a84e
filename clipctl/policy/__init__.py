"""How a run goes on: a Decision from its History. `rules.RULES` is the table; the first that speaks is chosen."""

from __future__ import annotations

from clipctl.policy.decide import Verdict, at_a_look, decide, explain, step
from clipctl.policy.objections import against_live, objections
from clipctl.policy.parents import parent_after
from clipctl.policy.settings import settings_after, settings_digest

__all__ = [
    "Verdict",
    "against_live",
    "at_a_look",
    "decide",
    "explain",
    "objections",
    "parent_after",
    "settings_after",
    "settings_digest",
    "step",
]
