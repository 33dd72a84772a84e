"""What one side writes, the other reads: across versions, and whatever the bytes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, strategies as st

from trainer.contract import (
    Attempt,
    Data,
    Event,
    EventKind,
    Fault,
    FaultKind,
    Heartbeat,
    Parent,
    Phase,
    Precision,
    TrainSpec,
    ZeroShot,
    dumps,
    loads,
)

TRAIN = TrainSpec(
    model="ViT-L-14",
    data=Data(train_data="/data/{000..011}.tar", train_num_samples=10),
    epochs=3,
    batch_size=4,
    zeroshot=ZeroShot(data="/data/val"),
    faults=(Fault(kind=FaultKind.OVERFLOW, at_epoch=2),),
)
ATTEMPT = Attempt(run="l14", number=2, ranks=384, train=TRAIN, parent=Parent(path="attempts/1/checkpoints/epoch_68.pt"))


def test_an_attempt_survives_the_way_to_the_node() -> None:
    assert loads(Attempt, dumps(ATTEMPT)) == ATTEMPT


def test_fields_of_a_newer_version_are_ignored_and_its_event_kinds_kept() -> None:
    newer = json.loads(dumps(ATTEMPT))
    newer["train"]["optim"]["lion"] = True
    newer["colour"] = "blue"
    assert loads(Attempt, json.dumps(newer)) == ATTEMPT
    event = loads(
        Event, '{"seq": 1, "time": 0, "kind": "teleported", "epoch": 1, "step": 2, "samples_seen": 3, "to": 9}'
    )
    assert (event.kind, event.facts) == ("teleported", {"to": 9})


def test_numbers_that_json_cannot_say_come_back_as_numbers() -> None:
    event = Event(
        seq=1,
        time=0.0,
        kind=EventKind.DIVERGED,
        epoch=1,
        step=2,
        samples_seen=3,
        facts={"loss": math.nan, "norm": [math.inf]},
    )
    line = dumps(event)
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    facts = loads(Event, line).facts
    assert math.isnan(float(facts["loss"]))
    assert float(facts["norm"][0]) == math.inf
    beat = Heartbeat(counter=1, phase=Phase.TRAINING, epoch=1, step=1, samples_seen=1, time=0.0, loss=math.nan)
    assert math.isnan(loads(Heartbeat, dumps(beat)).loss or 0.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"run": 5}', r"\$.run: expected str"),
        ('{"run": "r", "number": true, "ranks": 1}', r"\$.number: expected int"),
        ('{"run": "r", "number": 1, "ranks": 1}', r"\$.train: missing"),
        ('{"run": "r", "number": 1, "ranks": 1, "train": {"faults": 3}}', r"\$.train.model: missing"),
    ],
)
def test_what_is_missing_or_of_the_wrong_type_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        loads(Attempt, text)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_no_bytes_whatever_raise_anything_but_value_error(text: bytes | str) -> None:
    for kind in (Attempt, Event, Heartbeat):
        try:
            loads(kind, text)
        except ValueError:
            continue


def test_open_clips_own_names_for_a_precision_are_understood() -> None:
    assert Precision("amp") is Precision.AMP_FP16
    assert Precision("amp_bfloat16") is Precision.AMP_BF16
    with pytest.raises(ValueError, match="fp8"):
        Precision("fp8")
