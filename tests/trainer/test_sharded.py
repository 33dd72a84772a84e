"""`parallel: fsdp` against DDP, with real ranks: the same numbers, the same checkpoints, the same decisions."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from tests.trainer.attempts import PATIENCE, Started, digits_spec, end, log, prepare, signal_all, spawn
from tests.trainer.parity import CPU, MODELS
from tests.trainer.sharding import SETTINGS, Found, Poisoned, Setting, find
from trainer.contract import Classes, ExitCode, Optim, Parallel, Precision, Save, TrainSpec, ZeroShot
from trainer.models import register_models
from trainer.sharded import shard
from trainer.unusable import Unusable

RANKS = 2
DDP, FSDP = Parallel.DDP, Parallel.FSDP


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Setting, Found], dict[Precision, Poisoned]]:
    return find(tmp_path_factory.mktemp("sharded"))


def bound(setting: Setting) -> float:
    """Of the distance between two runs' weights, as a part of their length.

    Two passes are summed up in another order, and eight steps make more of that in half precision than elsewhere.
    """
    return 2e-3 if setting.precision is not Precision.FP32 and setting.accum_freq > 1 else 1e-5


def distance(state: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    ours, theirs = (torch.cat([tensor.flatten() for tensor in each["state_dict"].values()]) for each in (state, other))
    return float((ours - theirs).norm() / theirs.norm())


def layout(state: Any) -> Any:
    """Keys in their order, shapes and types."""
    if isinstance(state, Mapping):
        return [(key, layout(value)) for key, value in state.items()]
    if isinstance(state, list):
        return [layout(value) for value in state]
    return (state.shape, state.dtype, state.device, type(state)) if isinstance(state, Tensor) else type(state)


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_weights_and_checkpoints_are_those_of_ddp(setting: Setting, trained: tuple[Any, Any]) -> None:
    found: Found = trained[0][setting]
    assert layout(found.states[FSDP]) == layout(found.states[DDP])
    assert distance(found.states[FSDP], found.states[DDP]) <= bound(setting)
    assert found.held == pytest.approx(1 / setting.ranks, abs=0.02), "the rest is the other ranks'"
    first, theirs = found.rows[FSDP][0], found.rows[DDP][0]
    assert first == pytest.approx(theirs, rel=1e-6, nan_ok=True), "loss, finite, norm of the whole gradient, scales"
    last, theirs = found.rows[FSDP][-1], found.rows[DDP][-1]
    assert last[5] == pytest.approx(theirs[5], rel=5e-2 if setting.precision is Precision.AMP_FP16 else 1e-3)
    assert last[5] > 0, "RMS_t of the patch embedding, of which each rank holds a part"


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_each_goes_on_from_the_others_state(setting: Setting, trained: tuple[Any, Any]) -> None:
    found: Found = trained[0][setting]
    for parallel, state in found.went_on.items():
        assert layout(state) == layout(found.states[DDP])
        assert distance(state, found.states[DDP]) <= bound(setting), parallel
        steps = {float(moments["step"]) for moments in state["optimizer"]["state"].values()}
        assert steps == {float(moments["step"]) for moments in found.states[DDP]["optimizer"]["state"].values()}


def same(state: Any, other: Any) -> bool:
    if isinstance(state, Mapping):
        return state.keys() == other.keys() and all(same(value, other[key]) for key, value in state.items())
    return torch.equal(state, other) if isinstance(state, Tensor) else bool(state == other)


@pytest.mark.parametrize("precision", Precision)
def test_what_is_not_finite_on_one_rank_changes_nothing_on_any(precision: Precision, trained: tuple[Any, Any]) -> None:
    states: Poisoned = trained[1][precision]
    for part in ("state_dict", "optimizer"):
        assert same(states.after[part], states.before[part])
    goes_on = precision is Precision.AMP_FP16  # elsewhere the run has ended
    assert same(states.later["state_dict"], states.before["state_dict"]) is not goes_on
    if goes_on:
        assert states.after["scaler"]["scale"] == states.before["scaler"]["scale"] / 2


def test_a_tower_without_blocks_is_refused() -> None:
    open_clip.add_model_config(MODELS)
    told = "its image tower has no transformer blocks of open_clip's to share out; train.parallel=ddp"
    with pytest.raises(Unusable, match=f"^{re.escape(told)}$"):
        shard(open_clip.create_model("RN-small"), CPU, RANKS)


def spec(digits: Path, parallel: Parallel, held_out: Path, **changes: Any) -> TrainSpec:
    """Ten steps in two epochs. The held-out set is 178 samples for one rank, and 177, a batch less, for the other."""
    zeroshot = ZeroShot(data=str(held_out), frequency=1, classes=Classes.DIGITS, batch_size=59)
    base = {"epochs": 2, "ddp_static_graph": False, "save": Save(steps=3), "optim": Optim(lr=1e-3, warmup=2)}
    return digits_spec(
        digits, parallel=parallel, zeroshot=zeroshot, data={"train_num_samples": 160}, **(base | changes)
    )


def run(folder: Path, number: int, train: TrainSpec, **options: Any) -> Started:
    started = prepare(folder, number, train, ranks=RANKS, **options)
    process = spawn(started, RANKS)
    try:
        assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(started, 0)
    finally:
        end(started, process)
    return started


def evaluated(started: Started) -> list[tuple[Any, Any]]:
    return [(event.facts["top1"], event.facts["samples"]) for event in started.events("evaluated")]


def agree(losses: Mapping[int, Any], others: Mapping[int, Any]) -> None:
    assert losses.keys() == others.keys()
    for step, numbers in losses.items():
        assert numbers == pytest.approx(others[step], rel=1e-4), step


@pytest.mark.timeout(3 * PATIENCE)
def test_runs_are_the_same_and_go_on_from_each_other(digits: Path, tmp_path: Path) -> None:
    held_out = digits / "test.tar"
    replicated = run(tmp_path / "ddp", 1, spec(digits, DDP, held_out))
    sharded = run(tmp_path / "fsdp", 1, spec(digits, FSDP, held_out, grad_checkpointing=True))
    agree(sharded.losses(), replicated.losses())
    assert sharded.manifests().keys() == replicated.manifests().keys() >= {"steps/step_3.pt", "checkpoints/epoch_2.pt"}
    assert [samples for _, samples in evaluated(sharded)] == [355, 355]
    assert evaluated(sharded) == evaluated(replicated)

    register_models()
    path = sharded.folder / "checkpoints/epoch_2.pt"
    model, _, _ = open_clip.create_model_and_transforms("ViT-digits-32", pretrained=str(path))
    saved = torch.load(path)["state_dict"]
    assert all(torch.equal(tensor, saved[f"module.{name}"]) for name, tensor in model.state_dict().items())

    # One image of rank 1's first batch cannot be decoded: both hear of it, and go on.
    damaged = tmp_path / "test.tar"
    content = held_out.read_bytes()
    second = content.index(b"IHDR", content.index(b"IHDR") + 1)
    damaged.write_bytes(content[:second] + b"XXXX" + content[second + 4 :])
    for folder, parent, parallel in (("ddp", replicated, FSDP), ("fsdp", sharded, DDP)):
        went_on = run(tmp_path / folder, 2, spec(digits, parallel, damaged), parent=parent.parent("steps/step_8.pt"))
        agree(went_on.losses(), {step: numbers for step, numbers in replicated.losses().items() if step > 8})
        (facts,) = (event.facts for event in went_on.events("evaluated"))
        assert "cannot identify image" in facts["error"]


@pytest.mark.timeout(2 * PATIENCE)
def test_what_rank_0_alone_knows_is_saved_by_all(digits: Path, tmp_path: Path) -> None:
    """Its clock says when; the end is a signal's."""
    train = spec(digits, FSDP, digits / "test.tar", epochs=200, save=Save(minutes=1e-9, keep_last=1))
    started = prepare(tmp_path / "run", 1, replace(train, zeroshot=None), ranks=RANKS)
    process = spawn(started, RANKS)
    try:
        started.wait_for(lambda its: len(its.events("checkpoint")) >= 3)
        signal_all(started, signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == ExitCode.STOPPED, log(started, 0)
    finally:
        end(started, process)
    stopped = started.events()[-1]
    assert started.manifests()[stopped.facts["checkpoint"]].step == stopped.step
