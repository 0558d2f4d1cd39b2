"""Forward only, for evaluation: a batch passes through the runs of layers, rank by rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from disttrain_runtime.pipeline.boundaries import Boundary
from disttrain_runtime.pipeline.stage import Chunk, as_tuple


class Relay(nn.Module):
    """All ranks of a replica call it with the same inputs; who has the last run gets the outputs, the others None."""

    def __init__(
        self, chunks: Mapping[int, Chunk], homes: Sequence[int], group: dist.ProcessGroup, device: torch.device,
        between: Callable[[Any], list[Boundary]],
    ) -> None:  # fmt: skip
        super().__init__()
        self.chunks = nn.ModuleList([chunk for _, chunk in sorted(chunks.items())])
        self._numbers = sorted(chunks)
        self._homes, self._group, self._device, self._between = homes, group, device, between

    @override
    def forward(self, *inputs: Any, **named: Any) -> Any:
        given = named if named else inputs[0]
        between = self._between(given)
        made: dict[int, Any] = {}
        for number, chunk in zip(self._numbers, self.chunks, strict=True):
            assert isinstance(chunk, Chunk)
            if number == 0:
                chunk.feed = [given]
                arrived: tuple[Any, ...] = (torch.zeros(1, dtype=torch.int64),)
            elif self._homes[number - 1] == self._homes[number]:
                arrived = made.pop(number - 1)
            else:
                arrived = self._receive(between[number - 1], self._homes[number - 1])
            outputs = chunk(*arrived)
            if number + 1 == len(self._homes):
                return outputs
            made[number] = as_tuple(outputs)
            if self._homes[number + 1] != self._homes[number]:
                self._send(made.pop(number), self._homes[number + 1])
        return None

    def _send(self, tensors: Sequence[Tensor], to: int) -> None:
        for tensor in tensors:
            dist.send(tensor.contiguous(), group=self._group, group_dst=to)

    def _receive(self, like: Boundary, giver: int) -> tuple[Tensor, ...]:
        empty = tuple(torch.empty(t.shape, dtype=t.dtype, device=self._device) for t in like)
        for tensor in empty:
            dist.recv(tensor, group=self._group, group_src=giver)
        return empty
