"""What the trainer is told: resolved values only, named as in open_clip. Part of `trainer.contract`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar


class Precision(StrEnum):
    """open_clip's names; its `amp` means float16."""

    AMP_FP16 = "amp_fp16"
    AMP_BF16 = "amp_bf16"
    FP32 = "fp32"

    @classmethod
    def _missing_(cls, value: object) -> Precision | None:
        return {"amp": cls.AMP_FP16, "amp_bfloat16": cls.AMP_BF16}.get(str(value))


class Engine(StrEnum):
    """What computes the steps; events, checkpoints and exit codes are the same, and all but open_clip's loop."""

    TORCH = "torch"  # open_clip's models on GPUs
    OPEN_CLIP = "open_clip"  # open_clip_train itself, as a process of each rank: its own loop and checkpoints
    REHEARSAL = "rehearsal"  # a few hundred parameters in numpy: hundreds of ranks on a few cores, no data needed


class Parallel(StrEnum):
    """What of a model a rank holds."""

    DDP = "ddp"  # all of it
    FSDP = "fsdp"  # a part of every weight, gradient and moment


@dataclass(frozen=True)
class Rule:
    """A bound on a field. pydantic reads it on clipctl's side, through a hook that needs no import of it here."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(source) | {name: bound for name, bound in vars(self).items() if bound is not None}


Count = Annotated[int, Rule(ge=1, le=2**53)]  # what JSON readers and SQLite keep exactly
CountOrZero = Annotated[int, Rule(ge=0, le=2**53)]
Positive = Annotated[float, Rule(gt=0, lt=math.inf)]
NotNegative = Annotated[float, Rule(ge=0, lt=math.inf)]
Fraction = Annotated[float, Rule(ge=0, lt=1)]
Text = Annotated[str, Rule(min_length=1)]

STRICT: dict[str, Any] = {"extra": "forbid"}  # unknown keys are refused by pydantic; read_json ignores them


class Schedule(StrEnum):
    COSINE = "cosine"
    CONST = "const"
    CONST_COOLDOWN = "const-cooldown"  # constant up to the last epochs_cooldown epochs


BETWEEN_SOURCES = "::"  # in train_data and its upsampling factors, as in open_clip


class DatasetType(StrEnum):
    WEBDATASET = "webdataset"
    CSV = "csv"  # a file with a header, a row for each pair
    SYNTHETIC = "synthetic"  # one black image, one caption; train_data is not read


class Scheme(StrEnum):
    """Of shards that are no files."""

    HTTP = "http"  # through curl
    HTTPS = "https"
    PIPE = "pipe"  # a shell command that prints the shard


class Separator(StrEnum):
    TAB = r"\t"
    COMMA = ","
    SEMICOLON = ";"
    BAR = "|"


class FaultKind(StrEnum):
    OVERFLOW = "overflow"  # in every attempt, from its place on: float16 overflows, bfloat16 and float32 do not notice
    PLATEAU = "plateau"  # the same, but float16 underflows: all images look alike, the loss goes to chance and stays
    HANG = "hang"  # the following: once a run
    CRASH = "crash"
    SLOW_RANK = "slow_rank"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A rehearsed failure, let loose before step `at_step` (from 1) of epoch `at_epoch` (from 1)."""

    __pydantic_config__: ClassVar = STRICT
    kind: FaultKind
    at_epoch: Count
    at_step: Count = 1
    rank: CountOrZero = 0  # hang, crash, slow_rank
    seconds: Positive = 1.0  # slow_rank: extra time a step


@dataclass(frozen=True, kw_only=True)
class Data:
    __pydantic_config__: ClassVar = STRICT
    train_data: Text  # webdataset shards, braces allowed: /data/laion2B-en/{00000..23295}.tar; several sources: x::y
    dataset_type: DatasetType = DatasetType.WEBDATASET
    csv_separator: Separator = Separator.TAB
    csv_img_key: Text = "filepath"  # the column of paths, absolute or relative to the file's folder
    csv_caption_key: Text = "title"
    train_num_samples: Count  # samples of one virtual epoch, before rounding up by batch, ranks and workers
    allowed_schemes: tuple[Scheme, ...] = ()  # of shards that are no files: none is read unless it is named here
    dataset_resampled: bool = False  # shards drawn with replacement
    train_data_upsampling_factors: Text | None = None  # 2::1: a shard of the first source is drawn twice as often
    max_punsafe: Positive | None = None  # only samples whose json tag `punsafe` is below it; without the tag: left out
    workers: CountOrZero = 4  # data-loader processes a rank; part of the epoch's length, as in open_clip
    max_bad_fraction: Fraction = 0.01  # samples that cannot be used, before the run is refused


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW; defaults are open_clip's for ViT models."""

    __pydantic_config__: ClassVar = STRICT
    lr: Positive = 5e-4
    beta1: Fraction = 0.9
    beta2: Fraction = 0.98
    eps: Positive = 1e-6
    wd: NotNegative = 0.2
    warmup: CountOrZero = 10_000  # steps
    lr_scheduler: Schedule = Schedule.COSINE
    epochs_cooldown: Count | None = None  # const-cooldown: epochs at the end in which the LR falls
    lr_cooldown_end: NotNegative = 0.0  # to this
    lr_cooldown_power: Positive = 1.0  # 1: in a straight line
    grad_clip_norm: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """open_clip's switches on each transformer block of both towers."""

    __pydantic_config__: ClassVar = STRICT
    scaled_cosine_attn: bool = False  # attention by the angle of query and key, with a learned scale a head
    scale_heads: bool = False  # Normformer's three: a learned scale of each head's output,
    scale_attn: bool = False  # a norm after attention,
    scale_fc: bool = False  # and one inside the MLP


@dataclass(frozen=True, kw_only=True)
class Loss:
    __pydantic_config__: ClassVar = STRICT
    local_loss: bool = False  # each rank scores its own images and texts against all others'
    gather_with_grad: bool = False
    siglip: bool = False  # each pair is judged by itself, against a learned bias; the two above do not apply


class Classes(StrEnum):
    """Class names with prompt templates, in the order of a set's labels; the texts are in trainer.vocabulary."""

    IMAGENET = "imagenet"
    DIGITS = "digits"


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    __pydantic_config__: ClassVar = STRICT
    data: Text  # an ImageNet-like folder (one folder a class) or webdataset shards with .cls members
    frequency: Count = 2  # epochs
    classes: Classes = Classes.IMAGENET
    batch_size: Count = 64  # images a rank


@dataclass(frozen=True, kw_only=True)
class Save:
    __pydantic_config__: ClassVar = STRICT
    save_frequency: Count = 1  # epochs
    steps: Count | None = None  # also every so many steps
    minutes: Positive | None = None  # also every so many minutes
    keep_last: Count | None = None  # epoch files kept; None keeps all. Step files: the newest two


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """For `engine: rehearsal` alone."""

    __pydantic_config__: ClassVar = STRICT
    step_seconds: NotNegative = 0.0  # that every step takes longer, in place of a large model's arithmetic


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    __pydantic_config__: ClassVar = STRICT
    model: Text
    data: Data
    epochs: Count
    batch_size: Count  # samples of one forward pass on a rank
    accum_freq: Count = 1  # forward passes a step: its gradient is that of one batch of batch_size x accum_freq
    engine: Engine = Engine.TORCH
    precision: Precision = Precision.AMP_FP16
    tf32: bool = True  # float32 matrix products in TF32, as open_clip always does on CUDA
    seed: CountOrZero = 0
    parallel: Parallel = Parallel.DDP  # fsdp: every rank holds a part of the model; for those that do not fit
    ddp_static_graph: bool = False
    grad_checkpointing: bool = False  # activations are computed again in the backward pass: less memory, more time
    force_patch_dropout: Fraction | None = None  # of an image's patches, other ones each step; None: the model's own
    force_image_size: Count | None = None  # pixels a side; None: the model's own
    force_quick_gelu: bool = False
    blocks: Blocks = dataclasses.field(default_factory=Blocks)
    load_what_fits: bool = False  # of a parent that is another network's; what is kept, new and unused is told
    log_every_n_steps: Count = 100
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    save: Save = dataclasses.field(default_factory=Save)
    zeroshot: ZeroShot | None = None
    rehearsal: Rehearsal = dataclasses.field(default_factory=Rehearsal)
    faults: tuple[Fault, ...] = ()
