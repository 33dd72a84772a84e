"""Slurm's words for why a job waits, in words that a person can act on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipctl.domain import JobReport, JobState
from clipctl.reasons import Waiting, waiting

REPORT = JobReport(
    nonce="00", scheduler_id="7", state=JobState.PENDING, raw="PENDING", node_count=96, partition="booster"
)


def of(reason: str) -> Waiting:
    found = waiting(replace(REPORT, reason=reason))
    assert found is not None
    return found


@pytest.mark.parametrize("reason", ["PartitionNodeLimit", "PartitionConfig", "Dependency", "Priority"])
def test_more_nodes_than_there_are_is_said_at_once_whatever_slurm_names(reason: str) -> None:
    report = replace(REPORT, reason=reason, node_count=97, partition_nodes=96)
    text = "asks for 97 nodes, the partition booster gives a job at most 96"
    assert waiting(report) == Waiting(text, never=True)
    enough = waiting(replace(report, node_count=96))
    assert enough is not None and not enough.never


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "AccountNotAllowed",
        "QOSMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "QOSMaxGRESPerNode",
        "QOSMinGRES",
    ],
)
def test_what_waiting_does_not_cure(reason: str) -> None:
    assert of(reason).never


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("Priority", "jobs of higher priority come first"),
        ("Resources", "is next; waits for nodes to become free"),
        ("Dependency", "waits for the run's other job to end"),
        ("JobHeldUser", "held by its user: scontrol release"),
        ("AssocGrpNodeLimit", "its account has reached a limit (AssocGrpNodeLimit)"),
        ("AssociationJobLimit", "its account has reached a limit (AssociationJobLimit)"),
        ("QOSMaxJobsPerUserLimit", "its QOS has reached a limit (QOSMaxJobsPerUserLimit)"),
        (
            "ReqNodeNotAvail, Reserved for maintenance",
            "the nodes are reserved for maintenance; only a job that ends before it could start",
        ),
        ("ReqNodeNotAvail, UnavailableNodes:jwb[0001-0004]", "nodes are not available: jwb[0001-0004]"),
        ("ReqNodeNotAvail", "nodes that it asks for are not available"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED", "Nodes required for job are DOWN, DRAINED"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_what_passes(reason: str, text: str) -> None:
    assert of(reason) == Waiting(text)


def test_a_start_that_was_put_off_has_its_time() -> None:
    found = waiting(replace(REPORT, reason="BeginTime", expected_start=1795515401.0))
    assert found is not None and found.text.startswith("may not start before 2026-11-24 ")
    assert of("BeginTime").text == "its earliest start has not come yet"


def test_a_job_that_does_not_wait_has_no_reason_to() -> None:
    assert waiting(replace(REPORT, state=JobState.FAILED, reason="NonZeroExitCode")) is None
    assert waiting(REPORT) is None
