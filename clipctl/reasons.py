"""Why a job waits, in words, from Slurm's own word. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from clipctl.domain import JobReport, JobState


@dataclass(frozen=True)
class Waiting:
    text: str
    never: bool = False  # it cannot start as it was submitted, however long it waits


def waiting(report: JobReport) -> Waiting | None:
    """None: the job does not wait, or its scheduler gives no reason."""
    if report.state is not JobState.PENDING or not report.reason:
        return None
    if report.partition_nodes is not None and (report.node_count or 0) > report.partition_nodes:
        size = f"the partition {report.partition} gives a job at most {report.partition_nodes}"
        return Waiting(f"asks for {report.node_count} nodes, {size}", never=True)
    word = report.reason.partition(",")[0]
    if word == "ReqNodeNotAvail":
        return Waiting(_not_available(report.reason))
    if word == "BeginTime" and report.expected_start is not None:
        return Waiting(f"may not start before {datetime.fromtimestamp(report.expected_start):%Y-%m-%d %H:%M}")
    return _KNOWN.get(word) or _limit(word) or _described(report.reason)


_KNOWN = {
    "Priority": Waiting("jobs of higher priority come first"),
    "Resources": Waiting("is next; waits for nodes to become free"),
    "Dependency": Waiting("waits for the run's other job to end"),
    "DependencyNeverSatisfied": Waiting("waits for a job that can no longer end well", never=True),
    "BeginTime": Waiting("its earliest start has not come yet"),
    "Licenses": Waiting("waits for licenses"),
    "Reservation": Waiting("waits for its reservation to begin"),
    "ReservationDeleted": Waiting("its reservation was deleted", never=True),
    "NodeDown": Waiting("a node that it asks for is down"),
    "Cleaning": Waiting("its last start is still being cleaned up"),
    "Prolog": Waiting("the site prepares its nodes"),
    "JobHeldUser": Waiting("held by its user: scontrol release"),
    "JobHeldAdmin": Waiting("held by an administrator of the cluster"),
    "JobHoldMaxRequeue": Waiting("held: the cluster started it again too often"),
    "PartitionDown": Waiting("its partition is down"),
    "PartitionInactive": Waiting("its partition starts no jobs now"),
    # The next two may also mean nodes that are down: only the partition's size says never.
    "PartitionNodeLimit": Waiting("asks for more nodes than its partition allows now"),
    "PartitionConfig": Waiting("asks for what its partition does not have now"),
    "PartitionTimeLimit": Waiting("asks for more time than its partition allows", never=True),
    "BadConstraints": Waiting("no node is as it asks", never=True),
    "AccountNotAllowed": Waiting("its account may not use the partition", never=True),
    "InvalidAccount": Waiting("its account does not exist", never=True),
    "QOSNotAllowed": Waiting("its QOS may not be used in the partition", never=True),
    "InvalidQOS": Waiting("its QOS does not exist", never=True),
    "QOSUsageThreshold": Waiting("its account has used too much for the QOS"),
}
_OWNERS = {"Assoc": "account", "QOS": "QOS"}


def _limit(word: str) -> Waiting | None:
    """AssocGrpNodeLimit, QOSMaxNodePerJobLimit ...: what is used up comes back some day, what one job asks stays."""
    found = re.fullmatch(r"(Assoc|QOS)(?:iation)?(Grp|Max|Min)?(\w+)", word)
    if found is None:
        return None
    owner = _OWNERS[found[1]]
    if found[2] == "Min" or "PerJob" in found[3] or "PerNode" in found[3]:
        return Waiting(f"asks for what its {owner} does not allow any job ({word})", never=True)
    return Waiting(f"its {owner} has reached a limit ({word})")


def _not_available(reason: str) -> str:
    """`ReqNodeNotAvail, Reserved for maintenance`; `ReqNodeNotAvail, UnavailableNodes:jwb[0001-0004]`."""
    rest = reason.partition(",")[2].strip()
    if "maintenance" in rest:
        return "the nodes are reserved for maintenance; only a job that ends before it could start"
    unavailable = rest.removeprefix("UnavailableNodes:")
    return f"nodes are not available: {unavailable}" if unavailable else "nodes that it asks for are not available"


def _described(reason: str) -> Waiting:
    """Newer Slurm, or a sentence: `Nodes required for job are DOWN, DRAINED or reserved ...`."""
    return Waiting(reason.replace("_", " "))
