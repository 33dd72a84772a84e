"""A CLIP model of open_clip's with AdamW, in the arithmetic of a `TrainSpec`: the loop's `Trainee`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from open_clip import ClipLoss
from open_clip.loss import SigLipLoss
from torch import nn

from trainer.contract import FaultKind, Loss, Precision, TrainSpec
from trainer.patch_rms import PatchRms
from trainer.pixels import Normalized
from trainer.position import Position
from trainer.ranks import TorchAgreement
from trainer.seeds import seed_for
from trainer.short_texts import shortened, takes_short_texts
from trainer.snapshot import Snapshot
from trainer.stopwatch import Stopwatch

MAX_LOGIT_SCALE = math.log(100)
AUTOCAST = {Precision.AMP_FP16: torch.float16, Precision.AMP_BF16: torch.bfloat16}
# Powers of two: bfloat16 and float32 lose no bit. Float16 has nothing above 65504, nor between 0 and 2^-24.
OVERFLOW_FACTOR, UNDERFLOW_FACTOR = 2.0**24, 2.0**-48
PREFIX = "module."  # open_clip strips it when it runs alone, but cannot add it


class ClipTrainee:
    """`model` is open_clip's own, already on `device`; `loss` one of `loss_of` for these ranks."""

    def __init__(self, spec: TrainSpec, model: nn.Module, loss: nn.Module, device: torch.device, rank: int, ranks: int):
        self._spec, self._device, self._rank = spec, device, rank
        self.model = model
        self._loss = loss
        self._short_texts = takes_short_texts(model)
        self._normalized = Normalized(model, device)
        self._wrapped = self._wrapped_in(ranks)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(parameter_groups(model, spec.optim.wd), **_settings(spec))
        self._patch_rms: Callable[[], torch.Tensor] = PatchRms(model, self._optimizer)
        self._scaler = torch.amp.GradScaler(device.type) if spec.precision is Precision.AMP_FP16 else None
        # 1.0 until the first step that is not finite; from then on no update reaches the weights.
        self._alive = torch.ones((), device=device)
        self._stopwatch = Stopwatch(device)
        self._snapshot = Snapshot()
        self._may_hold = not spec.ddp_static_graph  # which DDP learns in the first pass of all: that one is sent

    def _wrapped_in(self, ranks: int) -> nn.Module:
        return data_parallel(self.model, self._device, self._spec) if ranks > 1 else self.model

    @property
    def own_seconds(self) -> float:
        return self._stopwatch.seconds

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = AUTOCAST.get(self._spec.precision)
        return torch.autocast(self._device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    def forward_backward(self, batch: Any, at: Position) -> torch.Tensor:
        """Images [B, 3, H, W], bytes or normalised, and texts [B, context] to a row [6]:

        loss, finite, grad_norm, scale, logit_scale, patch_rms.

        B is batch_size x accum_freq; the gradient is that of all B pairs as one batch.
        """
        # What is random in a step is a function of its place: there is no RNG state to save.
        seed = seed_for("step", self._spec.seed, at.epoch, at.step_in_epoch, self._rank)
        self._optimizer.zero_grad(set_to_none=True)
        take = self._undivided if self._spec.accum_freq == 1 else self._accumulated
        loss, image_features, text_features, logit_scale = take(batch, seed)
        finite = loss.isfinite() & image_features.isfinite().all() & text_features.isfinite().all()
        facts = [loss, finite, self._gradient_norm(), self._scale(), logit_scale, self._patch_rms()]
        return torch.stack([fact.detach().float() for fact in facts])

    def _undivided(self, batch: Any, seed: int) -> tuple[torch.Tensor, ...]:
        """Gradients, and: loss, image features, text features, logit scale."""
        with self._stopwatch:
            features = self._forward(self._wrapped, self._on_device(batch), seed)
        return self._backward(features), *features  # from here on ranks wait for each other

    def _accumulated(self, batch: Any, seed: int) -> tuple[torch.Tensor, ...]:
        """As `_undivided`, in the memory of one part. First all features without gradients, then each part's once

        more with them, beside the others' as they are. The loss is that of all pairs each time, so the parts' gradients
        add up to the undivided batch's; only the loss's own numbers have their whole gradient from each of them.
        """
        with self._stopwatch, torch.no_grad():
            parts = [*zip(*(tensor.split(self._spec.batch_size) for tensor in self._on_device(batch)), strict=True)]
            cached = [self._forward(self.model, part, seed + number)[:2] for number, part in enumerate(parts)]
        for number, part in enumerate(parts):
            with self._sending(number + 1 == len(parts)):
                *own, logit_scale = self._forward(self._wrapped, part, seed + number)
                beside = [*cached[:number], own, *cached[number + 1 :]]
                features = [torch.cat(tensors) for tensors in zip(*beside, strict=True)]
                loss = self._backward((*features, logit_scale))
            self._may_hold = True
        for parameter in (self.model.logit_scale, self.model.logit_bias):
            if parameter is not None and parameter.grad is not None:
                parameter.grad /= len(parts)
        return loss, *features, logit_scale

    def _on_device(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        texts = shortened(batch.texts) if self._short_texts else batch.texts
        images = self._normalized(batch.images.to(self._device, non_blocking=True))
        return images, texts.to(self._device, non_blocking=True)

    def _forward(self, model: nn.Module, pairs: Sequence[torch.Tensor], seed: int) -> tuple[torch.Tensor, ...]:
        """Image features [B, D], text features [B, D], logit scale."""
        torch.manual_seed(seed)  # the same patches are dropped where a part is computed twice
        with self.autocast():
            return tuple(model(*pairs)[:3])

    def _backward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        with self.autocast():
            loss: torch.Tensor = self._loss(*features)
        (self._scaler.scale(loss) if self._scaler else loss).backward()
        return loss

    def _sending(self, now: bool) -> contextlib.AbstractContextManager[Any]:
        """A pass whose gradients, and those held back before, go to the other ranks; else it holds its own back."""
        if now or not self._may_hold or self._wrapped is self.model:
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def update(self, agreed: TorchAgreement, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self._scaler:
            # Gradients are the same on all ranks by now, and so is what GradScaler finds in them.
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._alive *= agreed.all_finite()
            self._optimizer.found_inf = 1 - self._alive  # the fused kernel then leaves weights and moments alone
            self._optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def rehearse(self, kind: FaultKind) -> None:
        if kind is FaultKind.OVERFLOW:
            _last_mlp(self.model).register_forward_hook(lambda _, __, y: (y * OVERFLOW_FACTOR) * (1 / OVERFLOW_FACTOR))
        elif kind is FaultKind.PLATEAU:
            # All images look alike: every text is as near as any other, and there is no way back. Not zeros, as
            # open_clip divides by their length.
            self.model.visual.register_forward_hook(lambda _, __, y: y.where(y * UNDERFLOW_FACTOR != 0, 1.0))

    def reserve(self) -> Callable[[], None]:
        # The state's tensors are found here: float16's first steps are skipped, and moments come while a thread looks.
        return partial(self._snapshot.reserve, self._state())

    def state(self) -> dict[str, Any]:
        return self._snapshot.take(self._state())

    def contribute(self) -> None:
        """Nothing: rank 0 holds all there is."""

    def _state(self) -> dict[str, Any]:
        weights = {PREFIX + name: tensor for name, tensor in self.model.state_dict().items()}
        scaler = {"scaler": self._scaler.state_dict()} if self._scaler else {}
        return {"state_dict": weights, "optimizer": self._optimizer.state_dict()} | scaler

    def is_finite(self, state: Mapping[str, Any]) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in state["state_dict"].values())

    def misfit(self, state: Mapping[str, Any]) -> str:
        return misfit(self.sizes(), state)

    def sizes(self) -> dict[str, torch.Size]:
        """Of the weights, as checkpoints have them."""
        return sizes_of(self.model)

    def places(self) -> list[list[str]]:
        """Names of parameters in the order of the optimizer's state, by group."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self._optimizer.param_groups]

    def load(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Weights, moments and (float16 to float16) loss scale. Settings stay the spec's; returns what differed."""
        self._load_weights(weights_of(state))
        notices = self._load_optimizer(state["optimizer"]) if "optimizer" in state else ("no optimizer state in it",)
        if self._scaler and state.get("scaler"):
            self._scaler.load_state_dict(dict(state["scaler"]))
        return notices

    def _load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Those that are given; the others stay as they are."""
        self.model.load_state_dict(weights, strict=False)

    def _load_moments(self, saved: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(saved))

    def _load_optimizer(self, saved: Mapping[str, Any]) -> tuple[str, ...]:
        """load_state_dict would bring the file's lr, betas, eps, wd and implementation with it, silently."""
        ours = [
            {key: value for key, value in group.items() if key != "params"} for group in self._optimizer.param_groups
        ]
        self._load_moments(saved)
        notices = []
        for index, (group, settings) in enumerate(zip(self._optimizer.param_groups, ours, strict=True)):
            for name, value in settings.items():
                if name not in ("lr", "initial_lr") and group.get(name) != value:
                    notices.append(
                        f"optimizer group {index}: {name} {value} as specified, not {group.get(name)} as saved"
                    )
            group.update(settings)
        return tuple(notices)

    def _gradient_norm(self) -> torch.Tensor:
        if self._scaler:
            self._scaler.unscale_(self._optimizer)
        norm = self._norm_of([p.grad for p in self._parameters if p.grad is not None])
        clip = self._spec.optim.grad_clip_norm
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, clip, norm)
        return norm

    def _norm_of(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        return nn.utils.get_total_norm(gradients)

    def _scale(self) -> torch.Tensor:
        """The loss scale as a tensor: GradScaler.get_scale() would wait for the device."""
        return self._scaler._get_scale_async() if self._scaler else torch.zeros((), device=self._device)


def misfit(ours: Mapping[str, torch.Size], state: Mapping[str, Any]) -> str:
    """Why these weights are not this model's; empty: they are. load_state_dict would say it in a traceback."""
    saved = {name: tensor.shape for name, tensor in weights_of(state).items()}
    sizes = [
        f"{name} is {_size(saved[name])} there, {_size(ours[name])} here"
        for name in ours
        if name in saved and saved[name] != ours[name]
    ]
    foreign = [f"no {name} there" for name in ours.keys() - saved.keys()]
    foreign += [f"no {name} here" for name in saved.keys() - ours.keys()]
    found = sizes + sorted(foreign)
    return found[0] + (f", and {len(found) - 1} more" if found[1:] else "") if found else ""


def sizes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def weights_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """By the names that the model has for them when it runs alone."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state["state_dict"].items()}


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "one number"


class SigmoidLoss(nn.Module):
    """open_clip's SigLipLoss, with the bias that `model` learns beside its scale."""

    def __init__(self, model: nn.Module, rank: int, ranks: int) -> None:
        super().__init__()
        self._loss = SigLipLoss(rank=rank, world_size=ranks)
        # No module of this one: the model stays whose it is. Sharded, it is a vector of one number.
        self._bias = lambda: model.logit_bias.reshape(())

    def forward(self, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._loss(images, texts, logit_scale, self._bias())
        return loss


def loss_of(options: Loss, model: nn.Module, rank: int, ranks: int) -> nn.Module:
    return SigmoidLoss(model, rank, ranks) if options.siglip else contrastive_loss(options, rank, ranks)


def contrastive_loss(options: Loss, rank: int, ranks: int) -> nn.Module:
    return ClipLoss(
        local_loss=options.local_loss,
        gather_with_grad=options.gather_with_grad,
        cache_labels=True,
        rank=rank,
        world_size=ranks,
    )


def parameter_groups(model: nn.Module, wd: float) -> list[dict[str, Any]]:
    """open_clip's two groups in its order (optimizer state is keyed by place): without weight decay, then with."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    without = [parameter for name, parameter in named if is_undecayed(name, parameter)]
    decayed = [parameter for name, parameter in named if not is_undecayed(name, parameter)]
    return [{"params": without, "weight_decay": 0.0}, {"params": decayed, "weight_decay": wd}]


def is_undecayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def _settings(spec: TrainSpec) -> dict[str, Any]:
    optim = spec.optim
    return {"lr": optim.lr, "betas": (optim.beta1, optim.beta2), "eps": optim.eps, "fused": True}


def data_parallel(model: nn.Module, device: torch.device, spec: TrainSpec) -> nn.Module:
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        static_graph=spec.ddp_static_graph,
        broadcast_buffers=_has_statistics(model),
    )


def _has_statistics(model: nn.Module) -> bool:
    """Buffers that training changes, as batch norm's. Others are constants: to send them would cost a wait a step."""
    return bool(model.state_dict().keys() - dict(model.named_parameters()).keys())


def _last_mlp(model: nn.Module) -> nn.Module:
    """The last linear layer of an MLP: open_clip's own transformers, or timm's."""
    found = [module for name, module in model.named_modules() if name.endswith(("mlp.c_proj", "mlp.fc2"))]
    if not found:
        raise ValueError("the overflow fault needs a model with an MLP (open_clip's mlp.c_proj or timm's mlp.fc2)")
    return found[-1]
