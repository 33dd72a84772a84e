"""What each option of open_clip_train is here: none is passed over in silence."""

from __future__ import annotations

from typing import Any

import pytest
from open_clip_train.params import parse_args

from clipctl.adoption.options import settings_of
from tests.adoption.experiment import PARAMS

USUAL = {name: str(value) for name, value in vars(parse_args(["--model", "ViT-B-32"])).items()}


def train(**options: object) -> dict[str, Any]:
    return dict(settings_of(USUAL | {name: str(value) for name, value in options.items()}).train)


def test_the_defaults_of_open_clip_train_are_all_known_and_none_is_refused() -> None:
    settings = settings_of(USUAL)
    assert settings.refused == {} and settings.notes == ()
    assert settings.train["precision"] == "amp_fp16"
    assert settings.train["optim.beta2"] == 0.98, "as open_clip_train chooses for a ViT"


@pytest.mark.parametrize(
    ("option", "value", "path", "expected"),
    [
        ("model", "RN50", "model", "RN50"),
        ("epochs", 160, "epochs", 160),
        ("batch_size", 208, "batch_size", 208),
        ("accum_freq", 4, "accum_freq", 4),
        ("precision", "amp_bfloat16", "precision", "amp_bf16"),
        ("precision", "amp_bf16", "precision", "amp_bf16"),
        ("precision", "fp32", "precision", "fp32"),
        ("seed", 7, "seed", 7),
        ("ddp_static_graph", True, "ddp_static_graph", True),
        ("grad_checkpointing", True, "grad_checkpointing", True),
        ("force_patch_dropout", 0.5, "force_patch_dropout", 0.5),
        ("force_image_size", 256, "force_image_size", 256),
        ("force_image_size", [256], "force_image_size", 256),
        ("force_image_size", (256, 256), "force_image_size", 256),
        ("force_quick_gelu", True, "force_quick_gelu", True),
        ("log_every_n_steps", 7, "log_every_n_steps", 7),
        ("workers", 6, "data.workers", 6),
        ("train_data", "/a/{0..9}.tar::/b/0.tar", "data.train_data", "/a/{0..9}.tar::/b/0.tar"),
        ("train_num_samples", 135646078, "data.train_num_samples", 135646078),
        ("train_data_upsampling_factors", "2::1", "data.train_data_upsampling_factors", "2::1"),
        ("dataset_resampled", True, "data.dataset_resampled", True),
        ("train_data", "/a.csv", "data.dataset_type", "csv"),
        ("train_data", "/a.tsv", "data.csv_separator", r"\t"),
        ("train_data", "/a.tar", "data.dataset_type", "webdataset"),
        ("dataset_type", "synthetic", "data.dataset_type", "synthetic"),
        ("lr", 1e-3, "optim.lr", 1e-3),
        ("beta1", 0.8, "optim.beta1", 0.8),
        ("beta2", 0.95, "optim.beta2", 0.95),
        ("eps", 1e-8, "optim.eps", 1e-8),
        ("wd", 0.1, "optim.wd", 0.1),
        ("warmup", 2000, "optim.warmup", 2000),
        ("grad_clip_norm", 1.0, "optim.grad_clip_norm", 1.0),
        ("lr_scheduler", "const", "optim.lr_scheduler", "const"),
        ("local_loss", True, "loss.local_loss", True),
        ("gather_with_grad", True, "loss.gather_with_grad", True),
        ("siglip", True, "loss.siglip", True),
        ("save_frequency", 5, "save.save_frequency", 5),
        ("save_frequency", 0, "save.save_frequency", 32),
        ("imagenet_val", "/data/val", "zeroshot.data", "/data/val"),
    ],
)
def test_an_option_has_its_place(option: str, value: object, path: str, expected: object) -> None:
    assert train(**{option: value})[path] == expected
    if USUAL.get(option) != str(value):
        assert train(**{option: value}) != train()


def test_options_that_belong_together() -> None:
    csv = train(train_data="/a.csv", csv_separator=",", csv_img_key="file", csv_caption_key="text")
    assert (csv["data.csv_separator"], csv["data.csv_img_key"], csv["data.csv_caption_key"]) == (",", "file", "text")
    assert "data.dataset_resampled" not in csv
    cooldown = train(lr_scheduler="const-cooldown", epochs_cooldown=3, lr_cooldown_end=1e-5, lr_cooldown_power=2.0)
    found = {name: value for name, value in cooldown.items() if "cooldown" in name}
    assert found == {"optim.epochs_cooldown": 3, "optim.lr_cooldown_end": 1e-5, "optim.lr_cooldown_power": 2.0}
    zeroshot = train(imagenet_val="/val", zeroshot_frequency=5, batch_size=16)
    assert (zeroshot["zeroshot.frequency"], zeroshot["zeroshot.batch_size"]) == (5, 16)
    assert "zeroshot.data" not in train(imagenet_val="/val", zeroshot_frequency=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pretrained", "laion2b_s32b_b82k"), ("pretrained_image", True), ("lock_image", True), ("lock_text", True),
        ("lock_image_unlocked_groups", 2), ("image_mean", "(0.5, 0.5, 0.5)"), ("aug_cfg", "{'scale': (0.4, 1.0)}"),
        ("image_interpolation", "bilinear"), ("force_custom_text", True), ("force_context_length", 64),
        ("torchscript", True), ("torchcompile", True), ("trace", True), ("use_bn_sync", True), ("opt", "timm/lion"),
        ("momentum", 0.9), ("skip_scheduler", True), ("val_data", "/val.tar"), ("imagenet_v2", "/v2"),
        ("distill_model", "ViT-L-14"), ("use_bnb_linear", "SwitchBackLinearGlobal"), ("horovod", True), ("fsdp", True),
        ("dp", True), ("a_forks_own", "yes"),
    ],
)  # fmt: skip
def test_an_option_without_a_like_is_refused_by_name(option: str, value: object) -> None:
    refused = settings_of(USUAL | {option: str(value)}).refused
    assert list(refused) == [option] and refused[option].startswith(f"{value}: ")


def test_the_ranks_are_those_that_trained() -> None:
    assert settings_of(USUAL | {"world_size": "384"}).ranks == 384
    assert settings_of(USUAL).ranks is None


@pytest.mark.parametrize(
    "params", [USUAL, {name: str(value) for name, value in PARAMS.items()}], ids=["3.3.0", "an experiment"]
)
def test_every_option_changes_something_is_refused_or_says_nothing_of_training(params: dict[str, str]) -> None:
    """A strange value: an option that is not known to be harmless cannot take it in silence."""
    silent = set()
    for name in params:
        try:
            settings = settings_of(params | {name: "strange"})
        except ValueError as error:
            assert str(error).startswith(f"{name}: strange: ")
            continue
        before = settings_of(params)
        if name not in settings.refused and settings.train == before.train:
            silent.add(name)
    assert silent <= set(SILENT.split())


SILENT = """
cache_dir checkpoint_path coca_caption_loss_weight coca_contrastive_loss_weight copy_codebase csv_caption_key
csv_img_key csv_separator debug delete_previous_checkpoint device dist_backend dist_url distributed epochs_cooldown
log_local logs loss_dist_impl lr_cooldown_end lr_cooldown_power name no_set_device_rank remote_sync
remote_sync_frequency remote_sync_protocol report_to resume save_most_recent val_frequency val_num_samples wandb_notes
wandb_project_name
"""
