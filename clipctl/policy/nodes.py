"""Which nodes a run stays away from: two strikes within a time, or one rank that alone was not finite. Never too many.

A node is blamed by an incident's `nodes`, or by its `ranks` where these are to blame. The scheduler keeps dead nodes
away by itself; this is for those that come back, hang, or only compute wrongly.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from clipctl.domain import AttemptRecord, History, IncidentKind, RecoverySpec
from clipctl.policy.suspicion import diverged, one_bad_node

EXCLUDE = "slurm.exclude"
STRIKES = 2
_BY_RANK = frozenset({IncidentKind.DIVERGED, IncidentKind.HUNG, IncidentKind.SLOW})  # a crash's rank may be chance
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")  # what a spec takes: a remedy must never be refused for it
_TOKEN = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")  # of a list such as jwb[0001-0004,0010],jwb0100


def blamed(attempt: AttemptRecord, history: History, recovery: RecoverySpec) -> tuple[str, ...]:
    """Empty where it is nobody's fault, or so many nodes' that it is none of theirs."""
    if diverged(attempt.incident) and not one_bad_node(attempt, history):
        return ()  # the settings' fault, and which rank saw it first is chance
    found = tuple(node for node in _involved(attempt) if _NODE.fullmatch(node))
    return found if len(found) <= recovery.exclude_most else ()


def _involved(attempt: AttemptRecord) -> tuple[str, ...]:
    incident = attempt.incident
    if incident is None:
        return ()
    ranks = incident.ranks if incident.kind in _BY_RANK else ()
    of_ranks = (attempt.nodes[rank] for rank in ranks if rank < len(attempt.nodes))
    return incident.nodes or tuple(dict.fromkeys(of_ranks))


def struck(history: History, recovery: RecoverySpec, *, now: float) -> tuple[str, ...]:
    """The nodes to stay away from at this time, the last one struck first."""
    strikes: dict[str, list[float]] = defaultdict(list)
    for attempt in history.attempts:
        when = attempt.created_at if attempt.ended_at is None else attempt.ended_at
        weight = STRIKES if one_bad_node(attempt, history) else 1
        for node in blamed(attempt, history, recovery) if now - when < recovery.exclude_for else ():
            strikes[node] += [when] * weight
    guilty = [node for node, times in strikes.items() if len(times) >= STRIKES]
    return tuple(sorted(guilty, key=lambda node: strikes[node][-1], reverse=True)[: recovery.exclude_most])


def exclusion(history: History, recovery: RecoverySpec, *, now: float) -> Mapping[str, Any]:
    """The patch that leads from the newest attempt's nodes to those that are to be avoided now; empty: no change.

    What no incident ever named was excluded by a person, and stays so.
    """
    if history.exclude is None:
        return {}
    current = _names(history.attempts[-1].patch.get(EXCLUDE, history.exclude))
    ours = {node for attempt in history.attempts for node in _involved(attempt)} - set(_names(history.exclude))
    wanted = [name for name in current if name not in ours]
    wanted += [node for node in sorted(struck(history, recovery, now=now)) if node not in wanted]
    return {} if set(wanted) == set(current) else {EXCLUDE: ",".join(wanted) or None}


def _names(text: str | None) -> list[str]:
    return _TOKEN.findall(text or "")
