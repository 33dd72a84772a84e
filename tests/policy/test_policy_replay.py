"""The runs that others told of, through today's policy. Only facts with sources, and no place that nobody told."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipctl.errors import InvalidSpec, NotFound
from clipctl.policy.past import replay_timeline
from clipctl.policy.replay import Moment
from clipctl.presets import timeline_names
from clipctl.spec.timeline import load_timeline


def moments(name: str) -> tuple[Moment, ...]:
    return replay_timeline(load_timeline(name)).moments


def decided(moment: Moment) -> list[str]:
    return [answer.decision for answer in moment.clipctl]


def test_l14_would_have_gone_back_to_68_done_in_float32_at_once():
    first, second = moments("l14")
    (answer,) = first.clipctl
    assert (answer.decision, answer.start) == ("resubmit", "epoch_68.pt")
    assert answer.changes == {"train.precision": "fp32", "train.batch_size": 224, "train.tf32": True}
    assert "epochs done: 74, of which the last 6 are given up" in answer.basis
    assert decided(second) == ["stop", "resubmit"], "a plateau is a job that goes on"


def test_h14_would_have_gone_to_bfloat16_at_once():
    (moment,) = moments("h14")
    assert decided(moment) == ["stop", "resubmit"]
    assert moment.clipctl[1].changes == {"train.precision": "amp_bf16", "train.batch_size": 96}


def test_opt_would_have_left_float16_where_people_changed_the_rest():
    story = moments("opt")
    assert [decided(moment)[-1] for moment in story] == ["resubmit"] * 9
    of_numbers = [moment for moment in story if moment.what.startswith("diverged")]
    assert len(of_numbers) == 5
    assert {moment.clipctl[-1].changes["train.precision"] for moment in of_numbers} == {"amp_bf16"}


def test_bloom_would_have_needed_a_person_for_the_full_disk_alone():
    story = moments("bloom")
    kinds = {moment.what.partition(":")[0]: decided(moment) for moment in story}
    assert kinds == {
        "crashed": ["resubmit"],
        "node failed": ["resubmit"],
        "hung": ["stop", "resubmit"],
        "slow": ["wait"],
        "storage": ["hold"],
    }
    assert all(not answer.changes for moment in story for answer in moment.clipctl)


@pytest.mark.parametrize("name", timeline_names())
def test_nothing_is_said_that_nobody_told(name: str):
    """Whose place is not known, of that neither an epoch nor a file is named; every source is used."""
    timeline = load_timeline(name)
    assert {key for each in timeline.happenings for key in each.sources} == set(timeline.sources)
    for each, moment in zip(timeline.happenings, replay_timeline(timeline).moments, strict=True):
        assert moment.people == each.people
        if each.epoch is None:
            said = " ".join((moment.what, *(f"{answer.start} {answer.basis}" for answer in moment.clipctl)))
            assert "epoch" not in said


TEXT = """
title: two runs
sources: {log: somebody's}
happenings:
  - {when: once, kind: crashed, detail: an error, people: restart, sources: [log]}
"""


def test_a_file_of_ones_own(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT)
    (moment,) = moments(str(file))
    assert (moment.when, moment.clipctl[0].start) == ("once", "the newest good checkpoint")
    file.write_text(TEXT.replace("people", "saved: false, people"))
    assert moments(str(file))[0].clipctl[0].start == "the start"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[log]", "[rumour]", "once: rumour is none of the sources"),
        ("[log]", "[]", "happenings.0.sources"),
        ("kind: crashed", "kind: exploded", "happenings.0.kind=exploded"),
        ("detail", "epch: 3, detail", "happenings.0.epch"),
    ],
)
def test_a_file_with_a_mistake_is_refused(old: str, new: str, words: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(InvalidSpec) as refused:
        load_timeline(str(file))
    assert any(words in problem for problem in refused.value.problems), refused.value.problems


def test_a_name_that_is_neither_run_nor_timeline():
    with pytest.raises(NotFound, match="no run and no timeline l41; did you mean l14"):
        load_timeline("l41")
