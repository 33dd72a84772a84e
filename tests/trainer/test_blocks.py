"""Blocks changed by open_clip's switches, and a run that goes on from a checkpoint of the unchanged network."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn import functional

from tests.trainer.attempts import PATIENCE, Started, digits_spec, end, log, prepare, run_here, spawn
from tests.trainer.parity import CPU, MODELS
from trainer.contract import Blocks, ExitCode, Parallel, Save, TrainSpec
from trainer.fitting import Fit, fitted
from trainer.models import register_models
from trainer.place import Place
from trainer.torch_engine import create, equip, read
from trainer.unusable import Unusable

NORMFORMER = Blocks(scale_heads=True, scale_attn=True, scale_fc=True)
COSINE = Blocks(scaled_cosine_attn=True)


@pytest.fixture(autouse=True)
def _known() -> None:
    register_models()


def run(folder: Path, number: int, spec: TrainSpec, **options: object) -> Started:
    started = prepare(folder, number, spec, **options)  # type: ignore[arg-type]
    assert run_here(started) == ExitCode.COMPLETED
    return started


@pytest.fixture(scope="module")
def plain(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    register_models()
    return run(tmp_path_factory.mktemp("plain") / "run", 1, digits_spec(digits, epochs=1))


def test_cosine_attention_is_by_the_angle_and_causal_in_texts(digits: Path) -> None:
    model, *_ = create(digits_spec(digits, blocks=COSINE), CPU)
    attention = model.transformer.resblocks[0].attn
    states = torch.randn(2, 5, attention.out_proj.in_features)
    queries, keys, values = functional.linear(states, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    expected = []
    for head in range(attention.num_heads):
        part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        angles = functional.cosine_similarity(queries[:, :, None, part], keys[:, None, :, part], dim=-1)
        weights = (angles * attention.logit_scale[head].exp() + model.attn_mask[:5, :5]).softmax(dim=-1)
        expected.append(weights @ values[:, :, part])
    torch.testing.assert_close(
        attention(states, attn_mask=model.attn_mask[:5, :5]), attention.out_proj(torch.cat(expected, dim=-1))
    )


@pytest.mark.parametrize("blocks", [NORMFORMER, COSINE], ids=["normformer", "cosine"])
def test_activations_that_are_computed_again_are_the_same(blocks: Blocks, digits: Path, tmp_path: Path) -> None:
    kept, again = (
        run(tmp_path / str(wanted), 1, digits_spec(digits, epochs=1, blocks=blocks, grad_checkpointing=wanted))
        for wanted in (False, True)
    )
    assert again.losses() == kept.losses()


def test_other_options_of_the_image_tower_stay(digits: Path) -> None:
    spec = digits_spec(digits, blocks=NORMFORMER, force_image_size=64, force_patch_dropout=0.5)
    model, *_ = create(spec, CPU)
    assert (model.visual.image_size, model.visual.patch_dropout.prob) == ((64, 64), 0.5)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("RN50", "its image tower has no transformer blocks of open_clip's"),
        ("hf-hub:nobody/nothing", "open_clip has no configuration of it to change"),
    ],
)
def test_a_tower_that_would_take_no_notice_is_refused(model: str, rule: str, digits: Path) -> None:
    told = f"train.blocks.scale_fc=true: {model}: {rule}; train.blocks.scale_fc=false"
    with pytest.raises(Unusable, match=f"^{re.escape(told)}$"):
        create(digits_spec(digits, model=model, blocks=Blocks(scale_fc=True)), CPU)


def test_an_account_names_a_tensor_of_all_blocks_once() -> None:
    one, two = torch.Size([1]), torch.Size([2])
    saved = {"a.0.w": one, "a.1.w": one, "b": one, "c": one}
    fit = Fit.of(saved, {"a.0.w": one, "a.1.w": one, "b": two, "n.0.g": one, "n.1.g": one})
    told = "kept 2 tensors; new, left at their first values: b, n.*.g x 2; unused: b, c"
    assert str(fit) == told


def test_another_networks_checkpoint_is_refused_unless_it_is_wished(
    plain: Started, digits: Path, tmp_path: Path
) -> None:
    train = digits_spec(digits, epochs=2, blocks=NORMFORMER, save=Save(steps=1))
    parent = replace(plain.parent("checkpoints/epoch_1.pt"), path=str(plain.folder / "checkpoints/epoch_1.pt"))
    refused = prepare(tmp_path / "run", 1, train, parent=parent)
    assert run_here(refused) == ExitCode.REFUSED
    error = refused.events()[-1].facts["error"]
    assert re.search(r"does not fit ViT-digits-32: no \S+ there, and \d+ more; train.load_what_fits=true keeps", error)

    started = run(tmp_path / "run", 2, replace(train, load_what_fits=True), parent=parent)
    (notice,) = [event.facts["text"] for event in started.events("notice")]
    assert re.match(
        r"kept \d+ tensors; new, left at their first values: .*mlp\.ln\.weight x \d.*; unused: none$", notice
    )
    saved = torch.load(started.folder / "steps/step_9.pt")
    before = torch.load(parent.path)
    assert saved["state_dict"].keys() > before["state_dict"].keys()
    updates = {float(moments["step"]) for moments in saved["optimizer"]["state"].values()}
    assert updates == {9.0, 4.0}, "old parameters go on, new ones begin"

    again = run(tmp_path / "run", 3, train, parent=started.parent("steps/step_8.pt"))
    assert again.events("notice") == [], "it fits"
    assert again.losses() == {step: numbers for step, numbers in started.losses().items() if step > 8}


def test_moments_go_to_their_own_parameters(plain: Started, digits: Path) -> None:
    state = read(plain.folder / "checkpoints/epoch_1.pt")
    of_plain, of_changed = (equip(digits_spec(digits, blocks=blocks), Place(0, 1, 0)) for blocks in (Blocks(), COSINE))
    of_plain.load(state)
    of_changed.load(None)
    part, _ = fitted(state, of_changed.trainee)
    theirs, ours = ([name for names in each.trainee.places() for name in names] for each in (of_plain, of_changed))
    found = {ours[place]: moments for place, moments in part["optimizer"]["state"].items()}
    assert found.keys() == set(theirs)
    for place, name in enumerate(theirs):
        assert torch.equal(found[name]["exp_avg"], state["optimizer"]["state"][place]["exp_avg"]), name


def test_a_resnet_says_what_gradient_checkpointing_does_not_reach(digits: Path) -> None:
    open_clip.add_model_config(MODELS)
    text = "grad_checkpointing is for the text tower alone: open_clip's ResNets keep all their activations"
    for model, told in (("RN-small", (text,)), ("ViT-small-32", ())):
        assert equip(digits_spec(digits, model=model, grad_checkpointing=True), Place(0, 1, 0)).load(None) == told
    assert equip(digits_spec(digits, model="RN-small"), Place(0, 1, 0)).load(None) == ()


def test_changed_blocks_are_shared_out_like_any(digits: Path, tmp_path: Path, plain: Started) -> None:
    parent = replace(plain.parent("checkpoints/epoch_1.pt"), path=str(plain.folder / "checkpoints/epoch_1.pt"))
    changes = {"epochs": 2, "blocks": NORMFORMER, "load_what_fits": True, "ddp_static_graph": False, "batch_size": 8}
    losses = []
    for parallel in Parallel:
        train = digits_spec(digits, parallel=parallel, grad_checkpointing=parallel is Parallel.FSDP, **changes)
        started = prepare(tmp_path / parallel, 1, train, ranks=2, parent=parent)
        process = spawn(started, 2)
        try:
            assert process.wait(timeout=PATIENCE) == ExitCode.COMPLETED, log(started, 0)
        finally:
            end(started, process)
        losses.append([loss for loss, _ in started.losses().values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
