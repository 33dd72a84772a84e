"""A training state copied into host memory, so that it can be written while training changes the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Takes one copy at a time: the next one uses the memory of the last, which is as much as the state's tensors."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], Tensor] = {}  # by the way of keys that leads to each

    def take(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same with CPU tensors that nobody else writes to. Returns when the last byte has arrived."""
        copy = {key: self._copied(value, (key,)) for key, value in state.items()}
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return copy

    def _copied(self, value: Any, way: tuple[Any, ...]) -> Any:
        if isinstance(value, Tensor):
            return self._buffer(value, way).copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self._copied(item, (*way, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copied(item, (*way, index)) for index, item in enumerate(value))
        return value

    def _buffer(self, tensor: Tensor, way: tuple[Any, ...]) -> Tensor:
        """Pinned for a GPU: only then does a copy run at the bus's speed."""
        held = self._buffers.get(way)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[way] = held
        return held
