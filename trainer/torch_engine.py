"""`engine: torch`: open_clip's models, torch.distributed, webdataset."""

from __future__ import annotations

import difflib
import math
import pickle
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn

from trainer.blocks import configuration, mend
from trainer.charts import tensorboard as open_charts
from trainer.clip import ClipTrainee, loss_of
from trainer.contract import Parallel, TrainSpec
from trainer.data import Loader
from trainer.fitting import fitted
from trainer.models import configuration_of, is_place, register_models
from trainer.pixels import as_bytes
from trainer.place import Place
from trainer.position import Position
from trainer.ranks import TorchRanks
from trainer.seeds import seed_for
from trainer.sharded import Encoders, ShardedTrainee
from trainer.unusable import Unusable
from trainer.zeroshot import EvaluationError, zero_shot

__all__ = ["equip", "open_charts", "read", "write"]

SIGLIP = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}  # where open_clip begins with the sigmoid loss


def write(payload: Mapping[str, Any], file: IO[bytes]) -> None:
    torch.save(payload, file)


def read(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (RuntimeError, pickle.UnpicklingError) as error:  # its bytes are sound, but another program's
        raise Unusable(f"{path} is no checkpoint of torch's: {str(error).splitlines()[0]}") from error


def equip(spec: TrainSpec, where: Place) -> TorchEquipment:
    return TorchEquipment(spec, where)


class TorchEquipment:
    def __init__(self, spec: TrainSpec, where: Place) -> None:
        self.spec = spec
        self._device = _device(where, spec.tf32)
        self.device = str(self._device)
        self.versions = _device_versions(self._device)
        self.ranks = TorchRanks(where, self._device)
        self._sharded = spec.parallel is Parallel.FSDP and where.count > 1
        register_models()
        _refuse_unknown(spec.model)
        self._tokenizer = tokenizer_of(spec.model)

    @cached_property
    def _created(self) -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(seed_for("model", self.spec.seed))  # the same weights on all ranks
        return create(self.spec, torch.device("cpu") if self._sharded else self._device)

    def load(self, state: Mapping[str, Any] | None) -> tuple[str, ...]:
        self._model, _, self._preprocess_val = self._created
        rank, count = self.ranks.rank, self.ranks.count
        loss = loss_of(self.spec.loss, self._model, rank, count)
        kind = ShardedTrainee if self._sharded else ClipTrainee
        try:
            self.trainee = kind(self.spec, self._model, loss, self._device, rank, count)
        except Unusable as problem:
            raise Unusable(f"train.parallel={self.spec.parallel}: {self.spec.model}: {problem}") from problem
        notices = uncovered(self.spec, self._model)
        if not state:
            return notices
        if problem := self.trainee.misfit(state):
            if not self.spec.load_what_fits:
                told = f"the checkpoint to start from does not fit {self.spec.model}: {problem}"
                raise Unusable(f"{told}; train.load_what_fits=true keeps what fits")
            state, account = fitted(state, self.trainee)
            notices += account
        return notices + self.trainee.load(state)

    def source(self, at: Position) -> Loader:
        preprocess = train_transform(self.spec) or self._created[1]
        loader = Loader(
            self.spec,
            self.ranks.rank,
            at.stream,
            as_bytes(preprocess),
            self._tokenizer,
            pin_memory=self._device.type == "cuda",
        )
        loader.begin(at.epoch, at.step_in_epoch)
        return loader

    def evaluate(self) -> Mapping[str, Any]:
        """Top-1 and top-5 over all ranks' shares. An error is a fact of the event, never the end of the run."""
        counts, error = None, None
        try:
            counts = zero_shot(
                Encoders(self._model) if self._sharded else self._model,
                self._tokenizer,
                self._preprocess_val,
                self.spec.zeroshot,
                rank=self.ranks.rank,
                ranks=self.ranks.count,
                device=self._device,
                autocast=self.trainee.autocast,
                together=self.ranks.gather if self._sharded else None,
            )
        except EvaluationError as problem:
            error = str(problem)
        shares = self.ranks.gather((counts, error))
        errors = [text for _, text in shares if text]
        if errors:
            return {"error": errors[0]}
        samples = sum(share.samples for share, _ in shares)
        return {
            "top1": sum(share.top1 for share, _ in shares) / samples,
            "top5": sum(share.top5 for share, _ in shares) / samples,
            "samples": samples,
        }


def create(spec: TrainSpec, device: torch.device) -> tuple[nn.Module, Any, Any]:
    """open_clip's model as the spec has it, and its transforms of images for training and for evaluation."""
    model, preprocess_train, preprocess_val = open_clip.create_model_and_transforms(
        spec.model,
        device=device,
        precision="fp32",
        force_quick_gelu=spec.force_quick_gelu,
        force_patch_dropout=spec.force_patch_dropout,
        force_image_size=spec.force_image_size,
        **(SIGLIP if spec.loss.siglip else {}),
        **configuration(spec),
    )
    mend(model, spec)
    if spec.force_patch_dropout and not any("PatchDropout" in type(module).__name__ for module in model.modules()):
        rule = "its image tower drops no patches; train.force_patch_dropout=null"
        raise Unusable(f"train.force_patch_dropout={spec.force_patch_dropout:g}: {spec.model}: {rule}")
    if spec.grad_checkpointing:
        model.set_grad_checkpointing()
    return model, preprocess_train, preprocess_val


def train_transform(spec: TrainSpec) -> Any:
    """As `create` gives it: models that have a name differ in their images' size alone. None: only the model knows."""
    config = configuration_of(spec.model)
    if config is None:
        return None
    size = spec.force_image_size or config["vision_cfg"].get("image_size", CLIPVisionCfg.image_size)
    return image_transform_v2(PreprocessCfg(size=size), is_train=True)


def tokenizer_of(model: str) -> Callable[[list[str] | str], torch.Tensor]:
    """open_clip's. CLIP's own is the one that open_clip has made for itself: another one takes 0.1 s, and 22 MB."""
    config = configuration_of(model)
    text = config["text_cfg"] if config else {}
    if config is None or text.keys() & {"hf_tokenizer_name", "tokenizer_kwargs"} or "siglip" in model.lower():
        return open_clip.get_tokenizer(model)
    return partial(open_clip.tokenize, context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH))


def uncovered(spec: TrainSpec, model: nn.Module) -> tuple[str, ...]:
    """What an option does not reach, in words."""
    if spec.grad_checkpointing and isinstance(model.visual, ModifiedResNet):
        return ("grad_checkpointing is for the text tower alone: open_clip's ResNets keep all their activations",)
    return ()


def _refuse_unknown(model: str) -> None:
    """open_clip's own error lists its hundred models."""
    known, name = open_clip.list_models(), model.replace("/", "-")
    if not is_place(model) and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        instead = f"; did you mean {near[0]}?" if near else ""
        raise Unusable(f"train.model={model}: open_clip knows no such model{instead}")


def _device(where: Place, tf32: bool) -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", where.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _device_versions(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return {"cuda": str(torch.version.cuda), "nccl": nccl, "gpu": torch.cuda.get_device_name(device)}
