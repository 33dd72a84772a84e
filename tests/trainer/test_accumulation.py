"""`accum_freq`: a step of several forward passes is the step of one large batch, in the memory of a small one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from tests.trainer.attempts import Started, digits_spec, prepare, run_here
from tests.trainer.parity import BATCH, CPU, Case, recorded
from trainer.clip import ClipTrainee, loss_of
from trainer.compose import Batch
from trainer.contract import ExitCode, Loss, Precision, Save, TrainSpec
from trainer.models import register_models
from trainer.position import Position
from trainer.schedule import Geometry

PASSES = 4
CASE = Case("ViT-small-32", Precision.FP32, ranks=1, steps=1, accum_freq=PASSES)


def large_batch() -> Batch:
    images, texts = map(torch.cat, zip(*recorded(CASE, 0), strict=True))
    return Batch(images, texts, {}, len(images))


def trainee(spec: TrainSpec, ranks: int = 1, **options: Any) -> ClipTrainee:
    """Always of the same weights. `ranks`: more than one makes it data-parallel, be it with itself alone."""
    open_clip.add_model_config(Path(__file__).parent / "models")
    torch.manual_seed(0)
    model = open_clip.create_model(spec.model, **options)
    return ClipTrainee(spec, model, loss_of(spec.loss, model, 0, 1), CPU, 0, ranks)


def step(of: ClipTrainee, spec: TrainSpec, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Its row and gradients."""
    row = of.forward_backward(large_batch(), replace(Position(Geometry.of(spec, 1)), step_in_epoch=number))
    return row, {name: tensor.grad for name, tensor in of.model.named_parameters() if tensor.grad is not None}


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("passes", [2, PASSES])
def test_the_gradient_is_that_of_one_large_batch(passes: int, precision: Precision) -> None:
    whole = replace(CASE.spec(), precision=precision, batch_size=BATCH * PASSES, accum_freq=1)
    divided = replace(whole, batch_size=BATCH * PASSES // passes, accum_freq=passes)
    (row, gradients), (ours, accumulated) = (step(trainee(spec), spec) for spec in (whole, divided))
    rtol = {Precision.FP32: 1e-5, Precision.AMP_FP16: 1e-2, Precision.AMP_BF16: 5e-2}[precision]
    torch.testing.assert_close(ours, row, rtol=rtol, atol=0)
    assert accumulated.keys() == gradients.keys()
    for name, gradient in gradients.items():
        distance = float((accumulated[name] - gradient).norm())
        assert distance <= rtol * max(float(gradient.norm()), 1e-2 * float(row[2])), name


def test_the_bias_of_the_sigmoid_loss_has_its_gradient_once() -> None:
    whole = replace(CASE.spec(), batch_size=BATCH * PASSES, accum_freq=1, loss=Loss(siglip=True))
    divided = replace(whole, batch_size=BATCH, accum_freq=PASSES)
    (_, undivided), (_, accumulated) = (step(trainee(spec, init_logit_bias=-1.0), spec) for spec in (whole, divided))
    for name in ("logit_bias", "logit_scale", "visual.proj"):
        torch.testing.assert_close(accumulated[name], undivided[name], rtol=1e-4, atol=1e-6)


def test_the_same_patches_are_dropped_both_times() -> None:
    spec = CASE.spec()
    dropping = trainee(spec, force_patch_dropout=0.5)
    seen: list[Tensor] = []
    dropping.model.register_forward_hook(lambda _, __, made: seen.append(made[0].detach()))
    step(dropping, spec)
    first, second = torch.stack(seen).chunk(2)
    assert torch.equal(first, second)
    step(dropping, spec, number=1)
    assert not torch.equal(seen[2 * PASSES], seen[0]), "other ones in another step"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("static", [False, True])
def test_gradients_are_sent_once_a_step(static: bool, alone: None) -> None:
    spec = replace(CASE.spec(), ddp_static_graph=static)
    parallel, sent = trainee(spec, ranks=2), [0]
    wrapped = parallel._wrapped
    assert isinstance(wrapped, nn.parallel.DistributedDataParallel)

    def send(group, bucket):  # DDP reads annotations, and takes none that is a text
        sent[-1] += bucket.is_last()
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(None, send)
    for number in range(3):
        step(parallel, spec, number)
        sent.append(0)
    assert sent[1:3] == [1, 1]
    assert sent[0] == 1 + static, "a static graph is learnt in the first pass of all, which cannot hold back"


def run(folder: Path, number: int, spec: TrainSpec, **options: Any) -> Started:
    started = prepare(folder, number, spec, **options)
    assert run_here(started) == ExitCode.COMPLETED
    return started


def test_8_x_2_and_16_are_the_same_run_and_go_on_from_each_other(digits: Path, tmp_path: Path) -> None:
    register_models()
    whole = digits_spec(digits, epochs=2, save=Save(steps=3))
    divided = replace(whole, batch_size=8, accum_freq=2)
    of_16, of_8 = run(tmp_path / "whole", 1, whole), run(tmp_path / "divided", 1, divided)
    assert [event.samples_seen for event in of_8.events("progress")] == [16 * step for step in range(1, 11)]
    assert of_8.events("started")[0].facts["accum_freq"] == 2
    mixed = run(tmp_path / "divided", 2, whole, parent=of_8.parent("steps/step_8.pt"))
    assert mixed.events("notice") == [], "the data's order is the same"
    losses, expected = of_8.losses() | mixed.losses(), of_16.losses()
    assert losses.keys() == expected.keys()
    for at, numbers in expected.items():
        assert losses[at] == pytest.approx(numbers, rel=1e-3)
