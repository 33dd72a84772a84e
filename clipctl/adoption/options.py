"""params.txt of open_clip_train as the settings of a run: what each option is here, and which have no like."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trainer.contract import DatasetType, Precision, Schedule, Separator

Value = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    train: Mapping[str, Value]  # dotted paths below `train`, as far as params.txt tells
    ranks: int | None  # world_size
    refused: Mapping[str, str]  # options that this trainer does not honour: what it says and why that matters
    notes: tuple[str, ...]


def settings_of(params: Mapping[str, str]) -> Settings:
    """ValueError: an option of ours has a value that it cannot have, with its name."""
    told = {name: value for name, value in params.items() if value != "None"}
    train = {path: convert(told[name], name) for name, (path, convert) in _OPTIONS.items() if name in told}
    train |= _data(told) | _schedule(told) | _saves(told) | _zeroshot(told)
    refused = dict(_without_like(told))
    train = {path: value for path, value in train.items() if value is not None}
    ranks = _whole(told["world_size"], "world_size") if "world_size" in told else None
    return Settings(train=train, ranks=ranks, refused=refused, notes=tuple(_notes(told)))


# --- values, as Python prints them -------------------------------------------------------------------


def _text(value: str, name: str) -> str:
    return value


def _whole(value: str, name: str) -> int:
    return int(_checked(value, name, int, "a whole number"))


def _number(value: str, name: str) -> float:
    return float(_checked(value, name, float, "a number"))


def _checked(value: str, name: str, kind: Callable[[str], int | float], what: str) -> int | float:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"{name}: {value}: is not {what}") from error


def _flag(value: str, name: str) -> bool:
    if value not in ("True", "False"):
        raise ValueError(f"{name}: {value}: is neither True nor False")
    return value == "True"


def _precision(value: str, name: str) -> str:
    """Weights in float16 or bfloat16 themselves are none of ours."""
    try:
        return str(Precision(value))
    except ValueError as error:
        ours = "amp, amp_bf16 or fp32"
        raise ValueError(f"{name}: {value}: clipctl's trainer keeps its weights in float32: {ours}") from error


def _square(value: str, name: str) -> int:
    """224, [224] or (224, 224)."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        found = None
    sides = {found} if isinstance(found, int) else set(found) if isinstance(found, (list, tuple)) else set()
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise ValueError(f"{name}: {value}: clipctl's trainer takes square images alone")
    return side


_OPTIONS: Mapping[str, tuple[str, Callable[[str, str], Value]]] = {
    "model": ("model", _text),
    "epochs": ("epochs", _whole),
    "batch_size": ("batch_size", _whole),
    "accum_freq": ("accum_freq", _whole),
    "precision": ("precision", _precision),
    "seed": ("seed", _whole),
    "ddp_static_graph": ("ddp_static_graph", _flag),
    "grad_checkpointing": ("grad_checkpointing", _flag),
    "force_patch_dropout": ("force_patch_dropout", _number),
    "force_image_size": ("force_image_size", _square),
    "force_quick_gelu": ("force_quick_gelu", _flag),
    "log_every_n_steps": ("log_every_n_steps", _whole),
    "workers": ("data.workers", _whole),
    "train_data": ("data.train_data", _text),
    "train_num_samples": ("data.train_num_samples", _whole),
    "train_data_upsampling_factors": ("data.train_data_upsampling_factors", _text),
    "lr": ("optim.lr", _number),
    "beta1": ("optim.beta1", _number),
    "beta2": ("optim.beta2", _number),
    "eps": ("optim.eps", _number),
    "wd": ("optim.wd", _number),
    "warmup": ("optim.warmup", _whole),
    "grad_clip_norm": ("optim.grad_clip_norm", _number),
    "local_loss": ("loss.local_loss", _flag),
    "gather_with_grad": ("loss.gather_with_grad", _flag),
    "siglip": ("loss.siglip", _flag),
}

# --- options that belong together ---------------------------------------------------------------------


def _data(told: Mapping[str, str]) -> dict[str, Value]:
    kind, data = told.get("dataset_type", "auto"), told.get("train_data", "")
    if kind == "auto":
        kind = "csv" if data.endswith((".csv", ".tsv")) else "webdataset"
    if kind not in set(DatasetType):
        raise ValueError(f"dataset_type: {kind}: is none of {', '.join(DatasetType)}")
    found: dict[str, Value] = {"data.dataset_type": kind}
    if kind == DatasetType.WEBDATASET and "dataset_resampled" in told:
        found["data.dataset_resampled"] = _flag(told["dataset_resampled"], "dataset_resampled")
    if kind == DatasetType.SYNTHETIC:
        found["data.train_data"] = told.get("train_data", "synthetic")
    if kind == DatasetType.CSV:
        separator = told.get("csv_separator", "\t").replace("\t", Separator.TAB)
        if separator not in set(Separator):
            raise ValueError(f"csv_separator: {separator!r}: is none of {', '.join(Separator)}")
        columns = {f"data.{name}": told[name] for name in ("csv_img_key", "csv_caption_key") if name in told}
        found |= {"data.csv_separator": separator, **columns}
    return found


def _schedule(told: Mapping[str, str]) -> dict[str, Value]:
    """v0 and v1 know cosine alone, and have no option for it."""
    name = told.get("lr_scheduler", "cosine")
    if name not in set(Schedule):
        raise ValueError(f"lr_scheduler: {name}: is none of {', '.join(Schedule)}")
    found: dict[str, Value] = {"optim.lr_scheduler": name}
    if name == Schedule.CONST_COOLDOWN:
        for option, convert in (
            ("epochs_cooldown", _whole),
            ("lr_cooldown_end", _number),
            ("lr_cooldown_power", _number),
        ):
            if option in told:
                found[f"optim.{option}"] = convert(told[option], option)
    return found


def _saves(told: Mapping[str, str]) -> dict[str, Value]:
    """0: after the last epoch alone."""
    if "save_frequency" not in told:
        return {}
    frequency = _whole(told["save_frequency"], "save_frequency")
    return {"save.save_frequency": frequency or _whole(told.get("epochs", "1"), "epochs")}


def _zeroshot(told: Mapping[str, str]) -> dict[str, Value]:
    frequency = _whole(told.get("zeroshot_frequency", "2"), "zeroshot_frequency")
    if "imagenet_val" not in told or not frequency:
        return {}
    found: dict[str, Value] = {"zeroshot.data": told["imagenet_val"], "zeroshot.frequency": frequency}
    if "batch_size" in told:
        found["zeroshot.batch_size"] = _whole(told["batch_size"], "batch_size")
    return found


# --- options without a like ---------------------------------------------------------------------------

# Where it logs, how its processes met, how it cleans up; and what `settings_of` reads otherwise
_HARMLESS = frozenset(
    {
        *("name", "logs", "log_path", "log_level", "log_local", "checkpoint_path", "tensorboard", "tensorboard_path"),
        *("wandb", "trackio", "report_to", "debug", "copy_codebase", "save_logs", "log_metric_every_n_steps"),
        *("rank", "local_rank", "world_size", "device", "gpu", "dist_url", "dist_backend", "distributed"),
        *("no_set_device_rank", "cache_dir", "resume", "save_most_recent", "delete_previous_checkpoint"),
        *("val_frequency", "val_num_samples", "train_sz", "val_sz", "train_loss_ema_samples", "max_image_pixels"),
        *("loss_dist_impl", "dataset_type", "dataset_resampled", "csv_separator", "csv_img_key", "csv_caption_key"),
        *("lr_scheduler", "epochs_cooldown", "lr_cooldown_end", "lr_cooldown_power", "save_frequency"),
        *("imagenet_val", "zeroshot_frequency", "regression_frequency", "C"),
    }
)
# Of a switch that is an option of its own: without it they say nothing
_OF_A_SWITCH = (
    "wandb_",
    "remote_sync",
    "coca_",
    "audio_",
    "naflex_",
    "fsdp_",
    "torchcompile_",
    "val_retrieval_",
    "bucket_",
)
_USUAL: Mapping[str, frozenset[str]] = {
    "opt": frozenset({"adamw"}),
    "image_key": frozenset({"jpg;png;jpeg;webp"}),
    "text_key": frozenset({"txt"}),
    "text_pooler_in_head": frozenset({"True"}),
    "aggregate": frozenset({"True"}),  # v0.1's word for gathering features from all ranks
}
_OFF = frozenset({"False", "", "{}", "[]", "0"})
NO_LIKE = "clipctl's trainer has no such option"
_WHY = {
    "pretrained": "its checkpoints hold what came of that, but --epoch 1 would begin from random weights",
    "val_data": "clipctl's trainer measures zero-shot accuracy alone",
    "imagenet_v2": "clipctl's trainer evaluates on one set",
    "opt": "clipctl's trainer has AdamW alone",
    "use_bn_sync": "clipctl's trainer does not synchronize batch norms",
    "fsdp": "clipctl's trainer is data-parallel",
    "horovod": "clipctl's trainer meets by torch.distributed",
}


def _without_like(told: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if "coca" in told.get("model", "").lower():
        yield "model", f"{told['model']}: clipctl's trainer has no caption loss"
    for name, value in told.items():
        usual = _USUAL.get(name)
        if name in _OPTIONS or name in _HARMLESS or name.startswith(_OF_A_SWITCH):
            continue
        if value not in (usual or _OFF):
            yield name, f"{value}: {_WHY.get(name, NO_LIKE)}"


def _notes(told: Mapping[str, str]) -> Iterator[str]:
    if told.get("delete_previous_checkpoint") == "True":
        yield "delete_previous_checkpoint: clipctl keeps all; --set train.save.keep_last=N prunes"
    if told.get("save_frequency") == "0":
        yield "save_frequency: 0: saves after the last epoch alone; resume with --set train.save.save_frequency=1"
