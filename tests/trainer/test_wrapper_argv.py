"""Every field of a TrainSpec reaches open_clip_train as the option of that meaning, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from open_clip_train.params import parse_args

from clipctl.errors import InvalidSpec
from clipctl.spec import resolve
from tests.trainer.test_honoured import fields_of
from trainer.contract import (
    Data,
    DatasetType,
    Optim,
    Precision,
    Schedule,
    TrainSpec,
    ZeroShot,
)
from trainer.schedule import Geometry, open_clip_steps
from trainer.wrapper.argv import argv

BASE = TrainSpec(
    model="ViT-B-32", data=Data(train_data="/d/{0..9}.tar", train_num_samples=100), epochs=3, batch_size=10
)
FOLDER = Path("/runs/a run/attempts/7")
COOLDOWN = Optim(lr_scheduler=Schedule.CONST_COOLDOWN, epochs_cooldown=2, lr_cooldown_end=1e-7, lr_cooldown_power=2.5)

# What a field is set to, the name of its option, and what open_clip_train makes of it.
REACHES: dict[str, tuple[Any, str, Any]] = {
    "model": ("RN50", "model", "RN50"),
    "epochs": (9, "epochs", 9),
    "batch_size": (208, "batch_size", 208),
    "accum_freq": (4, "accum_freq", 4),
    "precision": (Precision.AMP_BF16, "precision", "amp_bf16"),
    "seed": (17, "seed", 17),
    "ddp_static_graph": (True, "ddp_static_graph", True),
    "grad_checkpointing": (True, "grad_checkpointing", True),
    "force_patch_dropout": (0.25, "force_patch_dropout", 0.25),
    "force_image_size": (336, "force_image_size", [336]),
    "force_quick_gelu": (True, "force_quick_gelu", True),
    "log_every_n_steps": (7, "log_every_n_steps", 7),
    "data.train_data": ("/a b/{0..3}.tar::/c/0.tar", "train_data", "/a b/{0..3}.tar::/c/0.tar"),
    "data.dataset_type": (DatasetType.SYNTHETIC, "dataset_type", "synthetic"),
    "data.train_num_samples": (407_332_084, "train_num_samples", 407_332_084),
    "data.dataset_resampled": (True, "dataset_resampled", True),
    "data.train_data_upsampling_factors": ("2::0.5", "train_data_upsampling_factors", "2::0.5"),
    "data.workers": (0, "workers", 0),
    "optim.lr": (1.2345678e-05, "lr", 1.2345678e-05),
    "optim.beta1": (0.0, "beta1", 0.0),
    "optim.beta2": (0.95, "beta2", 0.95),
    "optim.eps": (1e-8, "eps", 1e-8),
    "optim.wd": (0.0, "wd", 0.0),
    "optim.warmup": (0, "warmup", 0),
    "optim.lr_scheduler": (Schedule.CONST, "lr_scheduler", "const"),
    "optim.grad_clip_norm": (0.3, "grad_clip_norm", 0.3),
    "loss.local_loss": (True, "local_loss", True),
    "loss.gather_with_grad": (True, "gather_with_grad", True),
    "loss.siglip": (True, "siglip", True),
    "save.save_frequency": (5, "save_frequency", 5),
}
SHOWN_BELOW = {
    "engine",
    "optim.epochs_cooldown", "optim.lr_cooldown_end", "optim.lr_cooldown_power",
    "zeroshot.data", "zeroshot.frequency",
}  # fmt: skip
BY_CLIPCTL = {
    "save.keep_last",  # the wrapper prunes: test_wrapper.py
    "data.allowed_schemes",  # other shards are refused before anything starts; these it reads by itself
}

# What is typed, and the rule.
REFUSED = {
    "tf32": ("false", "open_clip_train never computes without TF32"),
    "faults": ("[{kind: crash, at_epoch: 1}]", "open_clip_train rehearses no faults"),
    "rehearsal.step_seconds": ("1", "open_clip_train computes real steps"),
    "save.steps": ("10", "open_clip_train saves at the end of an epoch, not inside one"),
    "save.minutes": ("30", "open_clip_train saves at the end of an epoch, not inside one"),
    "data.max_punsafe": ("0.5", "open_clip_train reads no safety tags"),
    "data.max_bad_fraction": ("0.5", "open_clip_train does not count what it leaves out"),
    "zeroshot.classes": ("digits", "open_clip_train knows ImageNet's classes alone"),
    "zeroshot.batch_size": ("128", "open_clip_train evaluates in batches of train.batch_size"),
}
OF_CSV = {"data.csv_separator", "data.csv_img_key", "data.csv_caption_key"}  # refused with the set that they are for
L14 = ("train.engine=open_clip", "resources.nodes=1", "resources.ranks_per_node=4", "cluster=local")


def told(spec: TrainSpec, **more: Any) -> Any:
    return parse_args(argv(spec, FOLDER, None, **more))


def changed(field: str, value: Any) -> TrainSpec:
    section, _, name = field.rpartition(".")
    if section:
        return replace(BASE, **{section: replace(getattr(BASE, section), **{name: value})})
    return replace(BASE, **{name: value})


@pytest.mark.parametrize("field", REACHES)
def test_a_field_reaches_the_option_of_that_meaning(field: str) -> None:
    value, option, expected = REACHES[field]
    assert getattr(told(changed(field, value)), option) == expected
    assert getattr(told(BASE), option) != expected


def test_precisions_have_its_names() -> None:
    names = [told(changed("precision", precision)).precision for precision in Precision]
    assert names == ["amp", "amp_bf16", "fp32"]


def test_a_cooldown() -> None:
    options = told(replace(BASE, optim=COOLDOWN))
    assert (options.lr_scheduler, options.epochs_cooldown) == ("const-cooldown", 2)
    assert (options.lr_cooldown_end, options.lr_cooldown_power) == (1e-7, 2.5)


def test_zero_shot() -> None:
    options = told(replace(BASE, zeroshot=ZeroShot(data="/imagenet/val", frequency=3)))
    assert (options.imagenet_val, options.zeroshot_frequency) == ("/imagenet/val", 3)
    assert told(BASE).imagenet_val is None


def test_its_experiment_is_the_attempt_and_its_parent_what_was_decided() -> None:
    options = parse_args(argv(BASE, FOLDER, Path("/runs/a run/attempts/6/checkpoints/epoch_2.pt")))
    assert (options.logs, options.name) == ("/runs/a run/attempts", "7")
    assert options.resume == "/runs/a run/attempts/6/checkpoints/epoch_2.pt"
    assert told(BASE).resume is None
    assert (told(BASE).no_set_device_rank, told(BASE, set_device=False).no_set_device_rank) == (False, True)
    assert told(changed("data.dataset_type", DatasetType.SYNTHETIC)).train_data is None


@pytest.mark.parametrize("field", REFUSED)
def test_what_it_has_no_option_for_is_refused_in_one_line(field: str) -> None:
    typed, rule = REFUSED[field]
    with pytest.raises(InvalidSpec) as refusal:
        resolve("l14-laion2b", sets=[*L14, f"train.{field}={typed}"])
    (line,) = refusal.value.problems
    assert line.startswith(f"train.{field}=")
    assert line.endswith(f": {rule}; train.engine=torch honours it")


def test_shards_that_are_no_files_need_leave_here_too() -> None:
    shards = "train.data.train_data=pipe:cat /x/{0..9}.tar"
    with pytest.raises(InvalidSpec, match="unless pipe is allowed by name"):
        resolve("l14-laion2b", sets=[*L14, shards])
    spec = resolve("l14-laion2b", sets=[*L14, shards, "train.data.allowed_schemes=[pipe]"])
    assert told(spec.train).train_data == "pipe:cat /x/{0..9}.tar"


@pytest.mark.parametrize("preset", ["l14-laion2b", "h14-laion2b", "g14-laion2b"])
def test_a_preset_of_a_large_run_asks_for_nothing_that_it_cannot_do(preset: str) -> None:
    assert resolve(preset, sets=L14).train.engine == "open_clip"


def test_sets_that_it_reads_otherwise_are_refused() -> None:
    for typed, rule in (
        ("train.data.dataset_type=csv", "makes an epoch of all rows, and heeds no train_num_samples"),
        ("train.zeroshot.data=/imagenet/{0..9}.tar", "reads no shards here, but a folder with one folder a class"),
    ):
        with pytest.raises(InvalidSpec, match=rule):
            resolve("l14-laion2b", sets=[*L14, "train.data.dataset_resampled=true", typed])


def test_an_epoch_that_it_would_count_otherwise_is_refused_with_one_that_it_would_not() -> None:
    accumulating = replace(BASE, accum_freq=2, batch_size=8, data=replace(BASE.data, train_num_samples=100))
    assert (open_clip_steps(accumulating, 2), Geometry.of(accumulating, 2).steps_per_epoch) == (4, 4)
    sets = [*L14, "train.batch_size=100", "train.accum_freq=3", "train.data.workers=4", "train.optim.warmup=0"]
    with pytest.raises(InvalidSpec) as refusal:
        resolve("l14-laion2b", sets=[*sets, "train.data.train_num_samples=10000"])
    (line,) = refusal.value.problems
    assert line == (
        "train.data.train_num_samples=10000: open_clip_train makes 9 steps an epoch of it, not 12; try 14400"
    )
    resolve("l14-laion2b", sets=[*sets, "train.data.train_num_samples=14400"])


def test_no_field_is_forgotten() -> None:
    assert set(fields_of(TrainSpec)) == set(REACHES) | SHOWN_BELOW | BY_CLIPCTL | set(REFUSED) | OF_CSV


def test_defaults_are_told_too() -> None:
    """open_clip_train's own may change."""
    assert {"lr", "beta1", "beta2", "eps", "wd", "warmup"} <= {
        option.partition("=")[0].removeprefix("--") for option in argv(BASE, FOLDER, None)
    }
