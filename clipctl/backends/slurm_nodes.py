"""Which of a job's nodes Slurm holds responsible for its end, by what it says of the nodes. Pure.

Of the job it does not say it: 22.05 has the name in no field of squeue, sacct or `scontrol show job`. A node's own
state and reason tell it, until somebody puts the node back into service; from then on nobody is known to be to blame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipctl.domain import JobReport, JobState

_NODE = re.compile(r"^(?:scontrol: )?NodeName=(\S+) (.*)$", re.MULTILINE)
_REASON = re.compile(r"\bReason=(.*) \[[^\]\s]*@([0-9]{1,10})\]")
_TOKEN = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")  # of a list such as jwb[0001-0004,0010],jwb0100
_DIED = frozenset({JobState.NODE_FAIL, JobState.BOOT_FAIL})
# A node whose prolog fails is drained, and slurmd cancels the job that must not be requeued, as root or Slurm's own
# user: FAILED where the script was faster
_NOT_STARTED = frozenset({JobState.CANCELLED, JobState.FAILED})
_PROLOG = "Prolog error"
LATER = 60.0  # seconds after the job's end: what a node's reason says from then on is about something else


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    state: str  # DOWN*+DRAIN
    reason: str
    since: float  # of the reason, by the controller's clock, as the times of jobs


def asked_about(reports: Iterable[JobReport]) -> list[JobReport]:
    """The jobs that may have ended by a node of theirs."""
    return [report for report in reports if report.nodes and report.state in _DIED | _NOT_STARTED]


def question(reports: Sequence[JobReport]) -> str:
    """For `scontrol --oneliner`, about all of these jobs at once."""
    return f"show node {','.join(report.nodes for report in reports)}"


def node_reports(text: str) -> dict[str, NodeReport]:
    """By name, those that have a reason with its time."""
    return {name: report for name, rest in _NODE.findall(text) if (report := _node(rest)) is not None}


def _node(line: str) -> NodeReport | None:
    state, reason = re.search(r"\bState=(\S+)", line), _REASON.search(line)
    if state is None or reason is None:
        return None
    printable = "".join(letter for letter in reason[1] if letter.isprintable())
    return NodeReport(state=state[1], reason=printable, since=float(reason[2]))


def failed_nodes(job: JobReport, known: Mapping[str, NodeReport]) -> dict[str, str]:
    """Name and why: the nodes that took the job along, or did not let it start."""
    return {
        name: f"{node.state}, {node.reason}"
        for name, node in known.items()
        if _is_to_blame(node, job) and _has(job.nodes, name)
    }


def _is_to_blame(node: NodeReport, job: JobReport) -> bool:
    """A reason older than the job's start may be why an administrator wanted the node that died: it is not renewed."""
    if job.ends_at is None or node.since > job.ends_at + LATER:
        return False
    if job.state in _DIED:
        return "DOWN" in node.state
    prolog = node.reason == _PROLOG and job.started_at is not None and node.since >= job.started_at
    return job.state in _NOT_STARTED and prolog


def _has(nodes: str, name: str) -> bool:
    return any(_matches(token, name) for token in _TOKEN.findall(nodes))


def _matches(token: str, name: str) -> bool:
    """Without writing the list out: whoever mangles an answer may ask for a billion nodes."""
    parts = re.split(r"\[([^\]]*)\]", token)  # text, ranges, text, ranges, ...
    pattern = "([0-9]+)".join(re.escape(text) for text in parts[::2])
    found = re.fullmatch(pattern, name)
    return found is not None and all(map(_within, parts[1::2], found.groups()))


def _within(ranges: str, number: str) -> bool:
    pairs = re.findall(r"([0-9]+)(?:-([0-9]+))?", ranges)
    return any(int(low) <= int(number) <= int(high or low) for low, high in pairs)
