"""What open_clip_train is told: a TrainSpec as its command line. Pure.

What it has no option for never comes here: clipctl refuses it (clipctl.spec.open_clip).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.contract import DatasetType, Precision, Schedule, TrainSpec

PRECISIONS = {Precision.AMP_FP16: "amp", Precision.AMP_BF16: "amp_bf16", Precision.FP32: "fp32"}


def argv(spec: TrainSpec, folder: Path, parent: Path | None, *, set_device: bool = True) -> list[str]:
    """Its experiment's folder is `folder`, the attempt's own, so that checkpoints lie where clipctl looks for them.

    `parent`: the checkpoint to start from. `set_device`: the local rank chooses the GPU.
    """
    arguments = [f"--logs={folder.parent}", f"--name={folder.name}", "--report-to=tensorboard"]
    if parent is not None:
        arguments.append(f"--resume={parent}")
    if not set_device:
        arguments.append("--no-set-device-rank")
    return [*arguments, *_model(spec), *_data(spec), *_optim(spec), *_loss(spec), *_evaluation(spec)]


def _model(spec: TrainSpec) -> Iterator[str]:
    yield f"--model={spec.model}"
    yield f"--precision={PRECISIONS[spec.precision]}"
    yield f"--seed={spec.seed}"
    yield f"--batch-size={spec.batch_size}"
    yield f"--accum-freq={spec.accum_freq}"
    yield f"--epochs={spec.epochs}"
    yield f"--save-frequency={spec.save.save_frequency}"
    yield f"--log-every-n-steps={spec.log_every_n_steps}"
    yield from _given("--force-patch-dropout", spec.force_patch_dropout)
    yield from _given("--force-image-size", spec.force_image_size)
    yield from _flag("--force-quick-gelu", spec.force_quick_gelu)
    yield from _flag("--grad-checkpointing", spec.grad_checkpointing)
    yield from _flag("--ddp-static-graph", spec.ddp_static_graph)


def _data(spec: TrainSpec) -> Iterator[str]:
    data = spec.data
    yield f"--dataset-type={data.dataset_type}"
    yield f"--train-num-samples={data.train_num_samples}"
    yield f"--workers={data.workers}"
    if data.dataset_type is not DatasetType.SYNTHETIC:
        yield f"--train-data={data.train_data}"
    yield from _flag("--dataset-resampled", data.dataset_resampled)
    yield from _given("--train-data-upsampling-factors", data.train_data_upsampling_factors)


def _optim(spec: TrainSpec) -> Iterator[str]:
    optim = spec.optim
    yield f"--lr={optim.lr!r}"
    yield f"--beta1={optim.beta1!r}"
    yield f"--beta2={optim.beta2!r}"
    yield f"--eps={optim.eps!r}"
    yield f"--wd={optim.wd!r}"
    yield f"--warmup={optim.warmup}"
    yield f"--lr-scheduler={optim.lr_scheduler}"
    if optim.lr_scheduler is Schedule.CONST_COOLDOWN:
        yield f"--epochs-cooldown={optim.epochs_cooldown}"
        yield f"--lr-cooldown-end={optim.lr_cooldown_end!r}"
        yield f"--lr-cooldown-power={optim.lr_cooldown_power!r}"
    yield from _given("--grad-clip-norm", optim.grad_clip_norm)


def _loss(spec: TrainSpec) -> Iterator[str]:
    yield from _flag("--local-loss", spec.loss.local_loss)
    yield from _flag("--gather-with-grad", spec.loss.gather_with_grad)
    yield from _flag("--siglip", spec.loss.siglip)


def _evaluation(spec: TrainSpec) -> Iterator[str]:
    if spec.zeroshot is not None:
        yield f"--imagenet-val={spec.zeroshot.data}"
        yield f"--zeroshot-frequency={spec.zeroshot.frequency}"


def _flag(option: str, wanted: bool) -> Iterator[str]:
    if wanted:
        yield option


def _given(option: str, value: object) -> Iterator[str]:
    if value is not None:
        yield f"{option}={value}"
