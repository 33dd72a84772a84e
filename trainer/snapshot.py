"""A training state copied into host memory, so that it can be written while training changes the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Way = tuple[Any, ...]  # the keys that lead to a tensor in a state


class Snapshot:
    """Takes one copy at a time: the next one uses the memory of the last, which is as much as the state's tensors."""

    def __init__(self, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """`whole`: makes of a rank's part of a tensor all of it, while all ranks take part."""
        self._whole = whole
        self._buffers: dict[Way, Tensor] = {}

    def reserve(self, state: Mapping[str, Any]) -> None:
        """Gets the memory, and touches it: new pages cost several times what the copy itself does."""
        self._walk(state, (), lambda tensor, way: self._buffer(tensor, way).zero_())

    def take(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same with CPU tensors that nobody else writes to. Returns when the last byte has arrived."""

        def copied(tensor: Tensor, way: Way) -> Tensor:
            full = self._whole(tensor.detach())  # one at a time: the device need not have room for all
            return self._buffer(full, way).copy_(full, non_blocking=True)

        copy: dict[str, Any] = self._walk(state, (), copied)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return copy

    def lend(self, state: Mapping[str, Any]) -> None:
        """This rank's parts of what another one takes at this moment; nothing is kept."""

        def lent(tensor: Tensor, way: Way) -> Tensor:
            self._whole(tensor.detach())
            return tensor

        self._walk(state, (), lent)

    def _walk(self, value: Any, way: Way, act: Callable[[Tensor, Way], Tensor]) -> Any:
        if isinstance(value, Tensor):
            return act(value, way)
        if isinstance(value, Mapping):
            return {key: self._walk(item, (*way, key), act) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._walk(item, (*way, index), act) for index, item in enumerate(value))
        return value

    def _buffer(self, tensor: Tensor, way: Way) -> Tensor:
        """Pinned for a GPU: only then does a copy run at the bus's speed."""
        held = self._buffers.get(way)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[way] = held
        return held
