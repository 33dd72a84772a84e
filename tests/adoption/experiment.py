"""An experiment folder as open_clip_train leaves it: small, with a log of any version's words and torch's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

BATCH, RANKS, STEPS = 8, 2, 5
SAMPLES = BATCH * RANKS * STEPS  # an epoch

PARAMS: Mapping[str, object] = {
    "accum_freq": 1,
    "batch_size": BATCH,
    "beta1": 0.9,
    "beta2": 0.98,
    "checkpoint_path": "logs/theirs/checkpoints",
    "coca_caption_loss_weight": 2.0,
    "csv_separator": "\t",
    "dataset_resampled": True,
    "dataset_type": "webdataset",
    "ddp_static_graph": True,
    "device": "cuda:0",
    "dist_url": "env://",
    "distributed": True,
    "epochs": 6,
    "eps": 1e-06,
    "force_image_size": None,
    "gather_with_grad": True,
    "horovod": False,
    "imagenet_val": None,
    "local_loss": True,
    "log_every_n_steps": 1,
    "lr": 0.001,
    "lr_scheduler": "cosine",
    "model": "ViT-digits-32",
    "name": "theirs",
    "opt": "adamw",
    "precision": "amp",
    "pretrained": "",
    "save_frequency": 1,
    "seed": 0,
    "torchcompile": False,
    "train_data": "/data/{00000..00007}.tar",
    "train_num_samples": SAMPLES,
    "val_data": None,
    "wandb_notes": "",
    "warmup": 5,
    "wd": 0.2,
    "workers": 1,
    "world_size": RANKS,
    "zeroshot_frequency": 2,
}


@dataclass
class Experiment:
    folder: Path
    params: dict[str, object] = field(default_factory=lambda: dict(PARAMS))
    minutes: int = 0  # of the clock in its log

    def __post_init__(self) -> None:
        (self.folder / "checkpoints").mkdir(parents=True)
        self.set()

    def set(self, **changed: object) -> None:
        """Options as the newest start had them; params.txt is written anew at each."""
        self.params |= changed
        text = "".join(f"{name}: {value}\n" for name, value in sorted(self.params.items()))
        (self.folder / "params.txt").write_text(text)

    def log(self, text: str, *, prefix: str = "INFO | ") -> None:
        self.minutes += 1
        time = f"2026-01-{1 + self.minutes // 1440:02},{self.minutes // 60 % 24:02}:{self.minutes % 60:02}:00"
        with open(self.folder / "out.log", "a") as log:
            log.write(f"{time} | {prefix}{text}\n")

    def start(self, resume: str | None = None, epochs_done: int = 0) -> None:
        self.log("Params:")
        for name, value in sorted((self.params | {"resume": resume}).items()):
            self.log(f"  {name}: {value}")
        if resume is not None:
            self.log(f"=> resuming checkpoint '{resume}' (epoch {epochs_done})")

    def step(self, epoch: int, step: int, loss: float, *, first: bool = False) -> None:
        """v3.3.0's line for `step` (from 1) of `epoch` (from 1)."""
        if first:
            self.log(f"Start epoch {epoch - 1}")
        batch = int(str(self.params["batch_size"])) * int(str(self.params["world_size"]))
        seen = f"[{step * batch:>3}/{SAMPLES} ({100 * step / STEPS:.0f}%)]"
        rates = f"Data (t): 0.020 Batch (t): 0.500, {batch / 0.5:#g}/s, {batch / 1.0:#g}/s/gpu LR: 0.000500"
        losses = f"Contrastive_loss: {loss:#.5g} ({loss:#.5g}) Loss: {loss:#.5g} ({loss:#.5g})"
        self.log(f"Train Epoch: {epoch - 1} {seen} {rates} Logit Scale: 14.300 {losses}")

    def epochs(self, first: int, last: int, *, loss: float = 2.5, save: bool = True) -> None:
        for epoch in range(first, last + 1):
            for step in range(1, STEPS + 1):
                self.step(epoch, step, loss, first=step == 1)
            if save:
                self.save(epoch)

    def evaluate(self, epochs_done: int, top1: float, top5: float) -> None:
        metrics = {"imagenet-zeroshot-val-top1": top1, "imagenet-zeroshot-val-top5": top5}
        said = "\t".join(f"{name}: {round(value, 4):.4f}" for name, value in metrics.items())
        self.log(f"Eval Epoch: {epochs_done} {said}")
        with open(self.folder / "checkpoints/results.jsonl", "a") as results:
            results.write(json.dumps(metrics) + "\n")

    def save(self, epochs_done: int, *, weight: float = 1.0, name: str = "", **more: Any) -> Path:
        """Keys as in open_clip_train's main; two small tensors for a model."""
        path = self.folder / "checkpoints" / (name or f"epoch_{epochs_done}.pt")
        state = {"module.weight": torch.full((300, 70), weight), "module.logit_scale": torch.tensor(2.66)}
        moments = {"step": torch.tensor(5.0 * epochs_done), "exp_avg": torch.full((300, 70), float("inf"))}
        optimizer = {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98), "params": [0]}]}
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 10}
        payload = {
            "epoch": epochs_done,
            "name": "theirs",
            "state_dict": state,
            "optimizer": optimizer,
            "scaler": scaler,
        }
        torch.save(payload | more, path)
        return path
