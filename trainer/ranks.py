"""The processes of an attempt: who am I, and how do all agree. torch.distributed behind the loop's `Ranks`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from trainer.loop import Measured

RENDEZVOUS_VARIABLE = "CLIPCTL_RENDEZVOUS"  # a file: ranks of one machine need no port


@dataclass(frozen=True)
class Place:
    rank: int
    count: int
    local_rank: int


def place(environ: Mapping[str, str]) -> Place:
    """From torchrun's or our own variables, else submitit's, else Slurm's; alone where there are none.

    A lone process inside an allocation sees SLURM_NTASKS but no rank of its own: it is alone.
    """
    for rank, count, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in environ and count in environ:
            return Place(int(environ[rank]), int(environ[count]), int(environ.get(local, "0")))
    return Place(0, 1, 0)


class TorchRanks:
    def __init__(self, where: Place, device: torch.device) -> None:
        self.rank, self.count, self.device = where.rank, where.count, device
        if self.count > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=_meeting_place(self.count), rank=self.rank, world_size=self.count)

    def agree(self, row: torch.Tensor, stop: int, bad: int, seen: int) -> TorchAgreement:
        said = torch.tensor([stop, bad, seen], dtype=torch.float32).to(self.device, non_blocking=True)
        mine = torch.cat([row, said])
        if self.count == 1:
            return TorchAgreement(mine[None])
        rows = mine.new_empty(self.count * mine.numel())  # flat: gloo takes no other shape
        dist.all_gather_into_tensor(rows, mine)
        return TorchAgreement(rows.view(self.count, -1))

    def gather(self, value: Any) -> list[Any]:
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.count > 1:
            dist.barrier()

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


def _meeting_place(ranks: int) -> dist.Store | None:
    """None: MASTER_ADDR and MASTER_PORT say it. Not by init_method: a URL would end at a `#` in a folder's name."""
    path = os.environ.get(RENDEZVOUS_VARIABLE)
    return dist.FileStore(path, ranks) if path else None


class TorchAgreement:
    """`rows` [ranks, 8] float32 on the device; its copy to the host is started at once and read a step later."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self._arrived: torch.cuda.Event | None = None
        if rows.device.type == "cuda":
            self._host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._host.copy_(rows, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = rows

    def all_finite(self) -> torch.Tensor:
        """1.0 where the update may be done, else 0.0; stays on the device."""
        loss, finite, norm = self.rows[:, 0], self.rows[:, 1], self.rows[:, 2]
        return (loss.isfinite() & (finite == 1) & norm.isfinite()).all().float()

    def read(self) -> tuple[Measured, ...]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return tuple(Measured(*row) for row in self._host.tolist())
