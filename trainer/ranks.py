"""How all processes of an attempt agree: torch.distributed behind the loop's `Ranks`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from trainer.contract import Phase
from trainer.deadlines import SECONDS
from trainer.loop import Measured, Said
from trainer.place import RENDEZVOUS_VARIABLE, Place


class TorchRanks:
    def __init__(self, where: Place, device: torch.device) -> None:
        self.rank, self.count, self.device = where.rank, where.count, device
        self._phase = Phase.STARTING
        if self.count > 1:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                timeout=_deadline(self._phase),
                store=_meeting_place(self.count),
                rank=self.rank,
                world_size=self.count,
            )
            # Its last reference must not be DDP's, which joins gloo's threads while it holds Python's lock; one of them
            # may be waiting for that to free a tensor (seen with torch 2.6: the rank never left).
            self._backend = distributed_c10d._get_default_group()._get_backend(device)

    def agree(self, row: torch.Tensor, said: Said) -> TorchAgreement:
        mine = torch.cat([row, torch.tensor(said, dtype=torch.float32).to(self.device, non_blocking=True)])
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

    def enter(self, phase: Phase) -> None:
        if self.count > 1 and phase is not self._phase:
            _set_timeout(_deadline(phase))
        self._phase = phase

    def flight(self) -> bytes:
        """As pickled by torch's flight recorder."""
        if self.count == 1:
            return b""
        name = "_dump_nccl_trace" if self.device.type == "cuda" else "_dump_fr_trace"  # gloo's: since torch 2.9
        dump = getattr(torch._C._distributed_c10d, name, None)
        return dump() if dump else b""

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


def _deadline(phase: Phase) -> timedelta:
    return timedelta(seconds=SECONDS[phase])


def _set_timeout(deadline: timedelta) -> None:
    """Of collectives that begin from now on. The public name is torch 2.15's."""
    getattr(dist, "set_timeout", distributed_c10d._set_pg_timeout)(deadline)


def _meeting_place(ranks: int) -> dist.Store | None:
    """None: MASTER_ADDR and MASTER_PORT say it. Not by init_method: a URL would end at a `#` in a folder's name."""
    path = os.environ.get(RENDEZVOUS_VARIABLE)
    return dist.FileStore(path, ranks) if path else None


class TorchAgreement:
    """`rows` [ranks, 11] float32 on the device; its copy to the host is started at once and read a step later."""

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

    def read(self) -> Measured:
        if self._arrived is not None:
            self._arrived.synchronize()
        return Measured.of(self._host.T.tolist())
