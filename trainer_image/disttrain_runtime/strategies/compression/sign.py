"""One bit a value, and one scale a bucket: EF-SignSGD, Karimireddy et al. 2019 (arXiv:1901.09847).

    sent: (‖v‖₁ / n) · sign(v)        bytes per rank and step: (W-1) · (⌈n/8⌉ + 4)

Messages of bits cannot be added up on their way, so each rank gets those of all: against the ring's 8n (W-1)/W this is
less up to W = 64 ranks, and more beyond.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from disttrain_runtime.strategies.compression.compressor import Gathered

_BITS = 8
_GATHER = 0x0102040810204080
"""Eight bytes of 0 or 1 in one word, times this: byte i is bit i of the highest byte, and nothing else gets there."""
_HIGHEST = 56


_CHUNK = 8192
"""Bytes of bits that are read at a time: what they mean, 256 kB, stays in a processor's cache until it is added."""


class Sign(Gathered):
    """Zero counts as positive."""

    @override
    def encode(self, values: Tensor) -> Tensor:
        return torch.cat([_packed(values), values.abs().mean().view(1).view(torch.uint8)])

    @override
    def add(self, values: Tensor, message: Tensor, factor: float) -> None:
        packed = message[: -values.element_size()]
        # A copy: where the scale lies in the message is no multiple of its width.
        scale = message[-values.element_size() :].clone().view(values.dtype)
        means = _signs(values.dtype, values.device) * (scale * factor)
        if not _numpy_has(values):
            values.add_(means.index_select(0, packed.int()).view(-1)[: values.numel()])
            return
        table, bytes_ = means.numpy(), packed.numpy()
        for first in range(0, len(bytes_), _CHUNK):
            said = torch.from_numpy(np.take(table, bytes_[first : first + _CHUNK], axis=0, mode="clip")).view(-1)
            part = values[first * _BITS : (first + _CHUNK) * _BITS]
            part.add_(said[: part.numel()])


def _packed(values: Tensor) -> Tensor:
    """A bit for each value, the first one the lowest of its byte."""
    if _numpy_has(values):
        return torch.from_numpy(np.packbits(values.numpy() >= 0, bitorder="little"))
    bits = pad((values >= 0).view(torch.uint8), (0, -values.numel() % _BITS))
    return (bits.view(torch.int64) * _GATHER >> _HIGHEST).to(torch.uint8)


def _numpy_has(values: Tensor) -> bool:
    """numpy does both in a quarter of the time, where it can."""
    return values.device.type == "cpu" and values.dtype != torch.bfloat16


@cache
def _signs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each byte says: eight times 1 or -1."""
    bytes_ = torch.arange(256, device=device)[:, None]
    return (bytes_ >> torch.arange(_BITS, device=device) & 1).to(dtype) * 2 - 1
