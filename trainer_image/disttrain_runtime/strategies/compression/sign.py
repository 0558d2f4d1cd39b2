"""One bit a value, and one scale a bucket: EF-SignSGD, Karimireddy et al. 2019 (arXiv:1901.09847).

    sent: (‖v‖₁ / n) · sign(v)        bytes per rank and step: (W-1) · (⌈n/8⌉ + 4)

Messages of bits cannot be added up on their way, so each rank gets those of all: against the ring's 8n (W-1)/W this is
less up to W = 64 ranks, and more beyond.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from disttrain_runtime.strategies.compression.compressor import Gathered

_BITS = 8
_GATHER = 0x0102040810204080
"""Eight bytes of 0 or 1 in one word, times this: byte i is bit i of the highest byte, and nothing else gets there."""
_HIGHEST = 56


class Sign(Gathered):
    """Zero counts as positive."""

    @override
    def encode(self, values: Tensor) -> Tensor:
        bits = pad((values >= 0).view(torch.uint8), (0, -values.numel() % _BITS))
        packed = (bits.view(torch.int64) * _GATHER >> _HIGHEST).to(torch.uint8)
        return torch.cat([packed, values.abs().mean().view(1).view(torch.uint8)])

    @override
    def add(self, values: Tensor, message: Tensor, factor: float) -> None:
        packed = message[: -values.element_size()]
        # A copy: where the scale lies in the message is no multiple of its width.
        scale = message[-values.element_size() :].clone().view(values.dtype)
        signs = _signs(values.dtype, values.device).index_select(0, packed.int()).view(-1)
        values.addcmul_(signs[: values.numel()], scale * factor)


@cache
def _signs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each byte says: eight times 1 or -1."""
    bytes_ = torch.arange(256, device=device)[:, None]
    return (bytes_ >> torch.arange(_BITS, device=device) & 1).to(dtype) * 2 - 1
