"""Numbers of half the width: 2 bytes instead of 4 for each value, added up on their way like the full ones.

    sent: h(v / W), with h rounding to fp16 or bf16        bytes per rank and step: 2 (W-1)/W · 2n

What h rounds away stays in the residual; what the additions on the way round away does not. A value beyond the range of
fp16 is sent as the largest one, and the rest stays in the residual. What is infinite stays infinite: it tells the loss
scaler to leave the step out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from typing_extensions import override

from disttrain_contract import strategy as contract
from disttrain_runtime.strategies.compression.compressor import Compressor, Piece


class Fp16(Compressor):
    """11 bits of precision, from 6e-8 to 65504."""

    dtype = torch.float16

    def __init__(self, config: contract.Compression, model: nn.Module) -> None:
        super().__init__(config, model)
        self._messages: dict[int, Tensor] = {}
        """By bucket; its memory is used again in the next step."""

    @override
    def exchange(self, bucket: GradBucket, values: Tensor, pieces: Sequence[Piece]) -> Future[Tensor]:
        ranks = dist.get_world_size()
        message = self.narrow(values, ranks, self._messages.get(bucket.index()))
        self._messages[bucket.index()] = message
        if self.feedback:
            lost = self.row(bucket).copy_(message)
            self.remember(pieces, torch.sub(values, lost, alpha=ranks, out=lost))
        sum_ = dist.all_reduce(message, async_op=True)
        assert sum_ is not None
        return sum_.get_future().then(lambda future: values.copy_(future.value()[0]))

    def narrow(self, values: Tensor, ranks: int, into: Tensor | None = None) -> Tensor:
        """A rank's part of the mean, rounded; each part stays below the limit, so that the sum does."""
        limit = torch.finfo(self.dtype).max / ranks
        if values.device.type == "cpu" and _within(values, limit * ranks):  # a GPU would have to be waited for
            return _divided(values, ranks, self.dtype, into)
        part = values / ranks
        return torch.where(part.isinf(), part, part.clamp(-limit, limit)).to(self.dtype)

    @override
    def undo(self) -> None:
        """A group that is broken may still write to what was being sent."""
        super().undo()
        self._messages = {}


class Bf16(Fp16):
    """8 bits of precision, the range of fp32."""

    dtype = torch.bfloat16

    @override
    def narrow(self, values: Tensor, ranks: int, into: Tensor | None = None) -> Tensor:
        return _divided(values, ranks, self.dtype, into)


def _divided(values: Tensor, ranks: int, dtype: torch.dtype, into: Tensor | None) -> Tensor:
    """The quotient, rounded once more to the dtype, where there is room for it."""
    if into is None or into.shape != values.shape:
        into = torch.empty_like(values, dtype=dtype)
    return torch.div(values, ranks, out=into)


def _within(values: Tensor, limit: float) -> bool:
    """As nearly always. One look instead of three copies. NaN is not."""
    if not values.numel():
        return True
    lowest, highest = values.aminmax()
    return bool(-limit <= lowest and highest <= limit)
