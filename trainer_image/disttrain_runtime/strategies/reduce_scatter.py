"""A reduce-scatter for gloo that sends what one should: each rank gets from every other its part, and adds them up.

gloo makes an all-reduce of a reduce-scatter and throws most of it away: 2 (N - 1) / N of the bytes leave each rank instead of
(N - 1) / N. Parts are added in the order of ranks, so equal runs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import SymInt, Tensor
from torch._C._distributed_c10d import _create_work_from_future
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.futures import Future
from typing_extensions import override

from disttrain_runtime.groups import begun


class ExchangeAndAdd(ReduceScatter):
    """For `FSDPModule.set_custom_reduce_scatter`. CPU memory only."""

    def __init__(self) -> None:
        self._room: Tensor | None = None
        """For what arrives: blocks come one after the other, and new memory takes longer to find than to fill."""

    @override
    def allocate(self, size: Sequence[int | SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    @override
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp | dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> dist.Work | None:
        if op not in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            raise ValueError(f"a reduce-scatter by exchange knows SUM and AVG, not {op}")
        ranks = group.size()
        parts = torch.empty_like(input_tensor) if async_op else self._room_like(input_tensor)
        work = begun(dist.all_to_all_single(parts, input_tensor, group=group, async_op=True))

        def add_up() -> Tensor:
            first, *others = parts.view(ranks, *output_tensor.shape)
            output_tensor.copy_(first)
            for other in others:
                output_tensor.add_(other)
            return output_tensor.div_(ranks) if op == dist.ReduceOp.AVG else output_tensor

        if not async_op:
            work.wait()
            add_up()
            return None

        def arrived(future: Future[list[Tensor]]) -> list[Tensor]:
            future.value()  # raises what went wrong
            return [add_up()]

        return _create_work_from_future(work.get_future().then(arrived))

    def _room_like(self, values: Tensor) -> Tensor:
        if self._room is None or self._room.dtype != values.dtype or self._room.numel() < values.numel():
            self._room = torch.empty_like(values)
        return self._room[: values.numel()]
