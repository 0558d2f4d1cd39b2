"""Communication hooks that torch has none of: messages that cannot be added up on their way, with error feedback.

DDP looks at the annotations of a hook, which must be classes and not their names: no `from __future__ import annotations` here.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.futures import Future


class Codec(Protocol):
    """How a message is made and read."""

    lost: dict[int, Tensor]
    """By bucket: what has not been sent yet."""

    def encode(self, values: Tensor) -> Tensor:
        """Bytes."""
        ...

    def decode(self, message: Tensor, count: int) -> Tensor:
        """Values."""
        ...


def gather(codec: Codec, bucket: GradBucket) -> Future[Tensor]:
    """Everybody's message to everybody."""
    values, number, world = bucket.buffer(), bucket.index(), dist.get_world_size()
    if number in codec.lost and codec.lost[number].numel() == values.numel():
        values.add_(codec.lost[number])
    message = codec.encode(values)
    codec.lost[number] = values - codec.decode(message, values.numel())
    messages = message.new_empty(world * message.numel())
    work = dist.all_gather_into_tensor(messages, message, async_op=True)
    assert work is not None, "this rank is in the group"

    def mean(_: Any) -> Tensor:
        values.zero_()
        for each in messages.chunk(world):
            values.add_(codec.decode(each, values.numel()), alpha=1 / world)
        return values

    return work.get_future().then(mean)


class Half:
    """What rounding to fp16 or bf16 has lost, by bucket."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.lost: dict[int, Tensor] = {}


def half_with_feedback(state: Half, bucket: GradBucket) -> Future[Tensor]:
    """torch's fp16_compress_hook and bf16_compress_hook, which have no error feedback, with it."""
    values, number, world = bucket.buffer(), bucket.index(), dist.get_world_size()
    if number in state.lost and state.lost[number].numel() == values.numel():
        values.add_(state.lost[number])
    message = values.to(state.dtype).div_(world)
    state.lost[number] = values.sub(message, alpha=world)
    work = dist.all_reduce(message, async_op=True)
    assert work is not None, "this rank is in the group"

    def widen(sent: Future[Any]) -> Tensor:
        return values.copy_(sent.value()[0])

    return work.get_future().then(widen)


def power_sgd_in_turn(state: powerSGD_hook.PowerSGDState, bucket: GradBucket) -> Future[Tensor]:
    """torch's hook, one bucket after the other: its inner all-reduces of two buckets would meet in any order on gloo."""
    sending: Future[Tensor] = powerSGD_hook.powerSGD_hook(state, bucket)
    sending.wait()
    return sending


class TopK:
    """The largest values and where they are."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.lost: dict[int, Tensor] = {}

    def encode(self, values: Tensor) -> Tensor:
        count = math.ceil(self.ratio * values.numel())
        places = values.abs().topk(count, sorted=False).indices
        return torch.cat([values[places].view(torch.uint8), places.to(torch.int32).view(torch.uint8)])

    def decode(self, message: Tensor, count: int) -> Tensor:
        values, places = message.chunk(2)
        return values.new_zeros(count, dtype=torch.float32).index_add_(
            0, places.view(torch.int32).long(), values.view(torch.float32)
        )


class Sign:
    """A bit for each value and one scale."""

    def __init__(self) -> None:
        self.lost: dict[int, Tensor] = {}

    def encode(self, values: Tensor) -> Tensor:
        bits = torch.from_numpy(np.packbits((values >= 0).numpy()))
        return torch.cat([values.abs().mean().reshape(1).view(torch.uint8), bits])

    def decode(self, message: Tensor, count: int) -> Tensor:
        scale = float(message[:4].clone().view(torch.float32))
        signs = np.unpackbits(message[4:].numpy(), count=count)
        return torch.from_numpy(signs).to(torch.float32).mul_(2 * scale).sub_(scale)
