"""One bit a value, and one scale a bucket: EF-SignSGD, Karimireddy et al. 2019 (arXiv:1901.09847).

    sent: (‖v‖₁ / n) · sign(v)        bytes per rank and step: (W-1) · (⌈n/8⌉ + 4)

Messages of bits cannot be added up on their way, so each rank gets those of all: against the ring's 8n (W-1)/W this is
less up to W = 64 ranks, and more beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from disttrain_runtime.strategies.compression.compressor import Gathered

_BITS = 8


class Sign(Gathered):
    """Zero counts as positive."""

    @override
    def encode(self, values: Tensor) -> Tensor:
        bits = pad((values >= 0).to(torch.uint8), (0, -values.numel() % _BITS)).view(-1, _BITS)
        packed = (bits << _places(values)).sum(1, dtype=torch.uint8)
        return torch.cat([packed, values.abs().mean().view(1).view(torch.uint8)])

    @override
    def add(self, values: Tensor, message: Tensor, factor: float) -> None:
        packed = message[: -values.element_size()]
        # A copy: where the scale lies in the message is no multiple of its width.
        scale = message[-values.element_size() :].clone().view(values.dtype)
        positive = ((packed[:, None] >> _places(values)) & 1).view(-1)[: values.numel()].bool()
        step = scale * factor
        values += torch.where(positive, step, -step)


def _places(values: Tensor) -> Tensor:
    return torch.arange(_BITS, dtype=torch.uint8, device=values.device)
