"""Only the largest values travel, each with its place: Stich et al. 2018, "Sparsified SGD with Memory".

    sent: the k = ⌈ratio · n⌉ values of largest magnitude of each bucket        bytes per rank and step: (W-1) · 8k

(4 bytes of value, 4 of place). Without error feedback most coordinates would never be trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from disttrain_runtime.strategies.compression.compressor import Gathered

DEFAULT_RATIO = 0.01
_PLACE = torch.int32
"""A bucket has far fewer than 2³¹ values."""


class TopK(Gathered):
    """By magnitude, over a whole bucket."""

    @override
    def encode(self, values: Tensor) -> Tensor:
        count = max(1, math.ceil((self.config.ratio or DEFAULT_RATIO) * values.numel()))
        places = values.abs().topk(count, sorted=False).indices
        return torch.cat([values[places].view(torch.uint8), places.to(_PLACE).view(torch.uint8)])

    @override
    def add(self, values: Tensor, message: Tensor, factor: float) -> None:
        width = values.element_size()
        count = message.numel() // (width + _PLACE.itemsize)
        sent = message[: count * width].view(values.dtype)
        places = message[count * width :].view(_PLACE).long()
        values.index_add_(0, places, sent, alpha=factor)
