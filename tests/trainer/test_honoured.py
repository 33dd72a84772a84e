"""Every field of a TrainSpec does something: change it, and see the effect."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import open_clip
import pytest
import torch

from tests.trainer.attempts import Started, digits_spec, prepare, rehearsal_spec, run_here
from trainer import models
from trainer.clip import contrastive_loss, data_parallel
from trainer.contract import (
    Blocks,
    Classes,
    DatasetType,
    Engine,
    ExitCode,
    Loss,
    Optim,
    Precision,
    Rehearsal,
    Save,
    Schedule,
    TrainSpec,
    ZeroShot,
)
from trainer.models import register_models
from trainer.torch_engine import create

SHORT = {"train_num_samples": 48}  # three steps an epoch


def run(digits: Path, folder: Path, **changes: Any) -> Started:
    data = SHORT | changes.pop("data", {})
    started = prepare(folder / "run", 1, digits_spec(digits, **({"epochs": 2} | changes), data=data))
    assert run_here(started) == ExitCode.COMPLETED
    return started


@pytest.fixture(scope="module")
def base(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    return run(digits, tmp_path_factory.mktemp("base"))


def optim(**changes: Any) -> dict[str, Any]:
    return {"optim": dataclasses.replace(Optim(lr=1e-3, warmup=5), **changes)}


def two_sources(digits: Path) -> str:
    return f"{digits}/train-{{000000..000003}}.tar::{digits}/train-{{000004..000007}}.tar"


UPSAMPLED = {"train_data_upsampling_factors": "1::100"}

COOLDOWN = {"warmup": 1, "lr_scheduler": Schedule.CONST_COOLDOWN, "epochs_cooldown": 1}

CHANGE_THE_LOSSES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "engine": lambda digits: {"engine": Engine.REHEARSAL},
    "precision": lambda digits: {"precision": Precision.AMP_BF16},
    "seed": lambda digits: {"seed": 1},
    "batch_size": lambda digits: {"batch_size": 12},
    "accum_freq": lambda digits: {"accum_freq": 2},
    "epochs": lambda digits: {"epochs": 3},
    "data.train_data": lambda digits: {"data": {"train_data": f"{digits}/train-000000.tar"}},
    "data.train_num_samples": lambda digits: {"data": {"train_num_samples": 64}},
    "data.dataset_resampled": lambda digits: {"data": {"dataset_resampled": False}},
    "data.train_data_upsampling_factors": lambda digits: {"data": UPSAMPLED | {"train_data": two_sources(digits)}},
    "data.dataset_type": lambda digits: {"data": {"dataset_type": DatasetType.SYNTHETIC}},
    "data.workers": lambda digits: {"data": {"workers": 2}},
    "optim.lr": lambda digits: optim(lr=2e-3),
    "optim.beta1": lambda digits: optim(beta1=0.5),
    "optim.beta2": lambda digits: optim(beta2=0.5),
    "optim.eps": lambda digits: optim(eps=1e-2),
    "optim.wd": lambda digits: optim(wd=0.9),
    "optim.warmup": lambda digits: optim(warmup=2),
    "optim.lr_scheduler": lambda digits: optim(warmup=1, lr_scheduler=Schedule.CONST),
    "optim.epochs_cooldown": lambda digits: optim(**COOLDOWN),
    "optim.lr_cooldown_end": lambda digits: optim(**COOLDOWN, lr_cooldown_end=9e-4),
    "optim.lr_cooldown_power": lambda digits: optim(**COOLDOWN, lr_cooldown_power=3.0),
    "optim.grad_clip_norm": lambda digits: optim(grad_clip_norm=0.01),
    "loss.siglip": lambda digits: {"loss": Loss(siglip=True)},
    "force_patch_dropout": lambda digits: {"force_patch_dropout": 0.5},
    "force_image_size": lambda digits: {"force_image_size": 64},
    "force_quick_gelu": lambda digits: {"force_quick_gelu": True},
    "blocks.scaled_cosine_attn": lambda digits: {"blocks": Blocks(scaled_cosine_attn=True)},
    "blocks.scale_heads": lambda digits: {"blocks": Blocks(scale_heads=True)},
    "blocks.scale_attn": lambda digits: {"blocks": Blocks(scale_attn=True)},
    "blocks.scale_fc": lambda digits: {"blocks": Blocks(scale_fc=True)},
}


@pytest.mark.parametrize("field", CHANGE_THE_LOSSES)
def test_it_changes_the_losses(field: str, base: Started, digits: Path, tmp_path: Path) -> None:
    changed = run(digits, tmp_path, **CHANGE_THE_LOSSES[field](digits))
    assert [loss for loss, _ in changed.losses().values()] != [loss for loss, _ in base.losses().values()]


WITHOUT_FILES = {
    "data.train_data",
    "data.dataset_type",
    "data.dataset_resampled",
    "data.train_data_upsampling_factors",
}  # pairs are made up
OPEN_CLIPS_MODEL = {
    "loss.siglip", "force_patch_dropout", "force_image_size", "force_quick_gelu",
    "blocks.scaled_cosine_attn", "blocks.scale_heads", "blocks.scale_attn", "blocks.scale_fc",
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(CHANGE_THE_LOSSES.keys() - WITHOUT_FILES - OPEN_CLIPS_MODEL - {"engine"}))
def test_it_changes_the_losses_of_a_rehearsal(field: str, digits: Path, tmp_path: Path) -> None:
    changes = {"optim": Optim(lr=1e-3, warmup=5)} | CHANGE_THE_LOSSES[field](digits)
    losses = []
    for name, spec in (("base", {"optim": Optim(lr=1e-3, warmup=5)}), ("changed", changes)):
        data = SHORT | spec.pop("data", {})
        started = prepare(tmp_path / name, 1, rehearsal_spec(**({"epochs": 2} | spec), data=data))
        assert run_here(started) == ExitCode.COMPLETED
        losses.append([loss for loss, _ in started.losses().values()])
    assert losses[0] != losses[1]


def test_step_seconds(tmp_path: Path) -> None:
    spec = rehearsal_spec(epochs=1, rehearsal=Rehearsal(step_seconds=0.1))
    started = prepare(tmp_path / "run", 1, spec)
    assert run_here(started) == ExitCode.COMPLETED
    assert started.events("completed")[0].facts["seconds"] >= 5 * 0.1


def test_model(base: Started, digits: Path, tmp_path: Path) -> None:
    config = json.loads((Path(models.__file__).parent / "ViT-digits-32.json").read_text())
    config["vision_cfg"]["layers"] = 1
    (tmp_path / "ViT-one-layer.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "ViT-one-layer.json")
    small = run(digits, tmp_path, model="ViT-one-layer", epochs=1)
    sizes = [started.manifests()["checkpoints/epoch_1.pt"].size for started in (small, base)]
    assert sizes[0] < sizes[1]


def test_log_every_n_steps(base: Started, digits: Path, tmp_path: Path) -> None:
    seen = run(digits, tmp_path, log_every_n_steps=2).events("progress")
    assert [event.step for event in base.events("progress")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in seen] == [2, 3, 4, 6], "every second one, and an epoch's last"


def files(started: Started) -> list[str]:
    return list(started.manifests())


def test_save(base: Started, digits: Path, tmp_path: Path) -> None:
    assert files(base) == ["checkpoints/epoch_1.pt", "checkpoints/epoch_2.pt"]
    assert files(run(digits, tmp_path / "frequency", save=Save(save_frequency=2))) == ["checkpoints/epoch_2.pt"]
    assert files(run(digits, tmp_path / "last", save=Save(keep_last=1))) == ["checkpoints/epoch_2.pt"]
    assert "steps/step_5.pt" in files(run(digits, tmp_path / "steps", save=Save(steps=2)))
    assert "steps/step_5.pt" in files(run(digits, tmp_path / "minutes", save=Save(minutes=1e-9)))


def test_zeroshot(digits: Path, tmp_path: Path) -> None:
    held_out = str(digits / "test.tar")
    every = run(digits, tmp_path / "1", zeroshot=ZeroShot(data=held_out, frequency=1, classes=Classes.DIGITS))
    last = run(digits, tmp_path / "2", zeroshot=ZeroShot(data=held_out, frequency=5, classes=Classes.DIGITS))
    train = run(digits, tmp_path / "4", zeroshot=ZeroShot(data=str(digits), frequency=5, classes=Classes.DIGITS))
    assert (len(every.events("evaluated")), len(last.events("evaluated"))) == (2, 1)
    assert last.events("evaluated")[0].facts["samples"] == 355
    assert "error" in train.events("evaluated")[0].facts, "shards, but not one folder a class"


def test_max_bad_fraction(digits: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    for number in range(4):
        path = shards / f"train-{number:06d}.tar"
        path.write_bytes(path.read_bytes().replace(b"IHDR", b"XXXX"))
    data = {"train_num_samples": 160, "max_bad_fraction": 0.99}
    assert run(shards, tmp_path, batch_size=32, data=data).events("data")[0].facts["bad"] > 16


def test_tf32(digits: Path, tmp_path: Path) -> None:
    for wanted in (False, True):
        run(digits, tmp_path / str(wanted), epochs=1, tf32=wanted)
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        assert flags == (wanted, wanted)


def test_grad_checkpointing(base: Started, digits: Path, tmp_path: Path) -> None:
    register_models()
    for wanted in (False, True):
        model, *_ = create(digits_spec(digits, grad_checkpointing=wanted), torch.device("cpu"))
        towers = (model.visual.transformer, model.transformer)
        assert [tower.grad_checkpointing for tower in towers] == [wanted, wanted]
    assert run(digits, tmp_path, grad_checkpointing=True).losses() == base.losses(), "the same bits, computed twice"


@pytest.mark.parametrize("field", ["local_loss", "gather_with_grad"])
def test_loss(field: str) -> None:
    for wanted in (False, True):
        assert getattr(contrastive_loss(Loss(**{field: wanted}), 0, 2), field) is wanted


def test_ddp_static_graph(digits: Path, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        for wanted in (False, True):
            spec = digits_spec(digits, ddp_static_graph=wanted)
            assert data_parallel(torch.nn.Linear(2, 2), torch.device("cpu"), spec).static_graph is wanted
    finally:
        torch.distributed.destroy_process_group()


SHOWN_ABOVE = {
    "model", "log_every_n_steps", "tf32", "grad_checkpointing", "ddp_static_graph", "data.max_bad_fraction",
    "save.save_frequency", "save.keep_last", "save.steps", "save.minutes",
    "zeroshot.data", "zeroshot.frequency", "loss.local_loss", "loss.gather_with_grad", "rehearsal.step_seconds",
}  # fmt: skip
SHOWN_ELSEWHERE = {
    "parallel": "test_sharded.py",
    "load_what_fits": "test_blocks.py",
    "data.max_punsafe": "test_safe_subset.py",
    "data.allowed_schemes": "test_streams.py",
    "data.csv_separator": "test_sets.py",
    "data.csv_img_key": "test_sets.py",
    "data.csv_caption_key": "test_sets.py",
    "zeroshot.batch_size": "test_zeroshot.py",
    "zeroshot.classes": "test_zeroshot.py",
    "faults": "test_attempt.py, test_rehearsal.py",
}


def test_no_field_is_forgotten() -> None:
    shown = SHOWN_ABOVE | set(CHANGE_THE_LOSSES) | set(SHOWN_ELSEWHERE)
    assert set(fields_of(TrainSpec)) == shown


def fields_of(kind: type, prefix: str = "") -> list[str]:
    found = []
    for name, hint in get_type_hints(kind).items():
        if name.startswith("__"):
            continue
        inner = next((item for item in (hint, *get_args(hint)) if dataclasses.is_dataclass(item)), None)
        found += fields_of(inner, f"{prefix}{name}.") if inner and name != "faults" else [f"{prefix}{name}"]
    return found
