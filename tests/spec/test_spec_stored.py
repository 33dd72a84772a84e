"""run.json: what was launched stays readable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipctl import __version__
from clipctl.errors import Damaged
from clipctl.spec import preset_names, resolve, spec_from_json, spec_to_json
from trainer.contract import FaultKind, Precision

FROZEN = Path(__file__).parents[1] / "data" / "run.schema1.json"


@pytest.mark.parametrize("preset", preset_names())
def test_a_spec_comes_back_as_it_was(preset: str) -> None:
    spec = resolve(preset, sets=["train.faults=[{kind: overflow, at_epoch: 2, at_step: 10}]", "train.save.minutes=30"])
    assert spec_from_json(spec_to_json(spec)) == spec


def test_the_file_says_who_wrote_it() -> None:
    document = json.loads(spec_to_json(resolve("demo")))
    assert (document["schema"], document["clipctl"]) == (1, __version__)
    assert document["spec"]["train"]["batch_size"] == 48


def test_a_file_of_schema_1_is_read_for_ever() -> None:
    """Written by the first version; never written again."""
    spec = spec_from_json(FROZEN.read_text())
    assert (spec.name, spec.cluster, spec.ranks) == ("l14-frozen", "juwels-booster", 384)
    assert spec.root == Path("/scratch/clip")
    assert (spec.train.precision, spec.train.batch_size, spec.train.optim.lr) == (Precision.AMP_FP16, 208, 1e-3)
    assert spec.precisions[Precision.FP32] == {"batch_size": 224, "tf32": True, "optim.lr": 5e-4}
    assert (spec.train.faults[0].kind, spec.train.faults[0].at_step) == (FaultKind.OVERFLOW, 10)
    assert (spec.train.save.keep_last, spec.recovery.rollback_epochs) == (10, 6)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(FROZEN.read_text())
    change(document)
    return json.dumps(document)


def test_keys_of_a_newer_version_are_left_out() -> None:
    text = changed(lambda document: document.update(host="x"))
    assert spec_from_json(text) == spec_from_json(FROZEN.read_text())

    def add(document: dict[str, Any]) -> None:
        document["spec"] |= {"colour": "red"}
        document["spec"]["train"]["optim"]["momentum"] = 0.9
        document["spec"]["train"]["faults"][0]["why"] = "because"

    assert spec_from_json(changed(add)).train.optim == spec_from_json(FROZEN.read_text()).train.optim
    assert len(spec_from_json(changed(add)).train.faults) == 1


def test_a_rule_of_a_newer_version_does_not_lock_out_an_old_run() -> None:
    text = changed(lambda document: document["spec"]["train"]["save"].update(keep_last=2))
    assert spec_from_json(text).train.save.keep_last == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"spec": {}}', "cannot be read: 'schema'"),
        (FROZEN.read_text()[:200], "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (changed(lambda document: document.update(schema=2)), "has schema 2, this clipctl reads up to 1"),
        (changed(lambda document: document.update(schema="one")), "has schema 'one', which never was"),
        (changed(lambda document: document["spec"]["train"].update(epochs=-1)), "wrong at train.epochs"),
        (changed(lambda document: document["spec"].pop("name")), "wrong at name"),
    ],
)
def test_what_is_no_run_json_is_damaged(text: str, why: str) -> None:
    with pytest.raises(Damaged) as damage:
        spec_from_json(text)
    assert why in damage.value.message
    assert "\n" not in damage.value.message
