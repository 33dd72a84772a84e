"""Which nodes a run stays away from, for how long, and what a person excluded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipctl.domain import AttemptRecord, IncidentKind as Kind, RecoverySpec, Resubmit
from clipctl.policy import decide
from clipctl.policy.nodes import exclusion, struck
from tests.policy.records import HOUR, attempt, checkpoint, diverged, ended, history

RECOVERY = RecoverySpec(exclude_for=48 * HOUR, exclude_most=2, tries=99, crashes=99)
NODES = tuple(f"n{rank // 4}" for rank in range(384))


def fails(number: int, *nodes: str, at: float = 0.0, kind: Kind = Kind.NODE_FAILED, **more: Any) -> AttemptRecord:
    return attempt(number, incident=ended(number, kind, nodes=nodes), nodes=NODES, ended_at=at, **more)


def guilty(*attempts: AttemptRecord, now: float = 0.0) -> tuple[str, ...]:
    return struck(history(*attempts), RECOVERY, now=now)


def wanted(*attempts: AttemptRecord, now: float = 0.0, **more: Any) -> Any:
    return dict(exclusion(history(*attempts, **more), RECOVERY, now=now))


def test_one_strike_is_chance_and_two_are_a_reason():
    assert guilty(fails(1, "n7")) == ()
    assert guilty(fails(1, "n7"), fails(2, "n9")) == ()
    assert guilty(fails(1, "n7"), fails(2, "n9"), fails(3, "n7")) == ("n7",)


def test_a_strike_is_forgotten_in_time():
    twice = fails(1, "n7", at=0.0), fails(2, "n7", at=40 * HOUR)
    assert guilty(*twice, now=47 * HOUR) == ("n7",)
    assert guilty(*twice, now=48 * HOUR) == ()


def test_never_more_than_the_cap_and_the_last_struck_first():
    story = [fails(number, f"n{number % 3}", at=number * HOUR) for number in range(1, 7)]
    assert guilty(*story, now=6 * HOUR) == ("n0", "n2")


def test_a_switch_that_takes_many_nodes_with_it_is_none_of_their_faults():
    assert guilty(*[fails(number, "n1", "n2", "n3") for number in (1, 2, 3)]) == ()


@pytest.mark.parametrize(
    ("incident", "found"),
    [
        (ended(1, Kind.HUNG, ranks=(17,)), ("n4",)),
        (ended(1, Kind.HUNG, ranks=(16, 19)), ("n4",)),
        (ended(1, Kind.SLOW, ranks=(17,)), ("n4",)),
        (ended(1, Kind.CRASHED, ranks=(17,)), ()),
        (ended(1, Kind.CRASHED, ranks=(17,), nodes=("n9",)), ("n9",)),
        (ended(1, Kind.NODE_FAILED, nodes=("n4", "n9")), ("n4", "n9")),
        (ended(1, Kind.NODE_FAILED, nodes=("n4", "n7", "n9")), ()),
        (ended(1, Kind.NODE_FAILED, ranks=(17,)), ()),
        (ended(1, Kind.NODE_FAILED), ()),
        (ended(1, Kind.HUNG, ranks=(999,)), ()),
        (diverged(1, 5, ranks=(17,), rise=True), ()),
        (ended(1, Kind.NODE_FAILED, nodes=("a b",)), ()),
        (diverged(1, 5), ()),
        (None, ()),
    ],
)
def test_whom_an_incident_blames(incident: Any, found: tuple[str, ...]):
    twice = [attempt(number, incident=incident, nodes=NODES) for number in (1, 2)]
    assert guilty(*twice) == found


def test_one_rank_out_of_the_blue_is_enough():
    one = attempt(1, incident=diverged(1, 5, ranks=(17,)), nodes=NODES, ended_at=0.0)
    assert guilty(one) == ("n4",)
    again = replace(one, number=2, incident=diverged(2, 5, ranks=(17,)))
    assert guilty(one, again) == (), "the same place again: the settings are to blame"


def test_a_patch_says_what_changes_and_nothing_else():
    twice = fails(1, "n7"), fails(2, "n7")
    assert wanted(*twice) == {"slurm.exclude": "n7"}
    kept = fails(3, "n9", patch={"slurm.exclude": "n7"})
    assert wanted(*twice, kept) == {}
    assert wanted(*twice, kept, now=99 * HOUR) == {"slurm.exclude": None}


def test_what_a_person_excluded_stays_so():
    twice = fails(1, "n7"), fails(2, "n7")
    assert wanted(*twice, exclude="m[1-3,5],n2") == {"slurm.exclude": "m[1-3,5],n2,n7"}
    asked = fails(3, "n9", patch={"slurm.exclude": "m[1-3,5],n2,n7,n50"})
    assert wanted(*twice, asked, now=99 * HOUR, exclude="m[1-3,5],n2") == {"slurm.exclude": "m[1-3,5],n2,n50"}
    assert wanted(fails(1, "n2"), fails(2, "n2"), now=99 * HOUR, exclude="n2") == {}


def test_where_nodes_cannot_be_chosen_none_is_excluded():
    assert wanted(fails(1, "n7"), fails(2, "n7"), exclude=None) == {}


def test_every_remedy_stays_away_from_them_and_says_so():
    saved = tuple(checkpoint(1, epochs) for epochs in range(1, 5))
    one = attempt(1, incident=diverged(1, 5, ranks=(17,)), nodes=NODES)
    decision = decide(history(one, checkpoints=saved), one.incident, RECOVERY, now=HOUR)
    assert isinstance(decision, Resubmit)
    assert (decision.remedy.parent, decision.remedy.patch) == (saved[3], {"slurm.exclude": "n4"})
    assert decision.basis.endswith("; slurm.exclude=n4")
    cleared = attempt(2, incident=ended(2, Kind.PREEMPTED), patch={"slurm.exclude": "n4"})
    decision = decide(history(one, cleared, checkpoints=saved), cleared.incident, RECOVERY, now=99 * HOUR)
    assert isinstance(decision, Resubmit)
    assert decision.remedy.patch == {"slurm.exclude": None} and decision.basis.endswith("; slurm.exclude=none")


def test_another_choice_of_nodes_gives_crashes_new_tries():
    """Two bad nodes that fail every start, one after the other: both are found before the crashes are too many."""
    recovery = replace(RECOVERY, crashes=3, exclude_for=1e9)
    story, excluded = [], None
    for number, node in enumerate(["n7", "n7", "n9", "n9"], start=1):
        story.append(fails(number, node, kind=Kind.CRASHED, patch={"slurm.exclude": excluded}))
        decision = decide(history(*story), story[-1].incident, recovery, now=HOUR * 50)
        assert isinstance(decision, Resubmit), decision
        excluded = decision.remedy.patch.get("slurm.exclude", excluded)
    assert excluded == "n7,n9"
