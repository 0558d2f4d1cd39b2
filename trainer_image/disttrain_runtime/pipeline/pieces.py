"""A batch as microbatches of one size: a pipeline's buffers have one shape.

The last ones may have fewer samples than the others, or none. They are filled up with samples that are there already; what
comes out for these is cut off before the loss, so no gradient flows through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from disttrain_runtime.data import Batch
from disttrain_runtime.strategies.microbatch import cut


@dataclass(frozen=True, slots=True)
class Piece:
    """One microbatch."""

    inputs: Any
    targets: Any
    """Of the samples that count; None if there are none."""
    counted: int
    size: int
    """Samples that go in."""
    weight: float
    """Of its mean loss in the mean over the global batch."""


def pieces(batch: Batch, count: int) -> list[Piece]:
    """So many."""
    samples = len(batch.share.indices)
    size = -(-samples // count)
    return [_piece(batch, number * size, size, samples) for number in range(count)]


def outputs_of(piece: Piece, outputs: Any) -> Any:
    """Those that count."""
    return outputs if piece.counted == piece.size else cut(outputs, 0, piece.counted, piece.size)


def _piece(batch: Batch, first: int, size: int, samples: int) -> Piece:
    end = min(first + size, samples)
    if first >= samples:
        return Piece(cut(batch.inputs, 0, size, samples), None, 0, size, 0.0)
    inputs = _filled(cut(batch.inputs, first, end, samples), end - first, size)
    targets = cut(batch.targets, first, end, samples)
    weight = (end - first) / samples * batch.share.own / batch.share.total
    return Piece(inputs, targets, end - first, size, weight)


def _filled(value: Any, have: int, want: int) -> Any:
    """The last sample, again and again."""
    if have == want:
        return value
    if isinstance(value, Tensor):
        return torch.cat([value, value[-1:].expand(want - have, *value.shape[1:])])
    if isinstance(value, dict):
        return {k: _filled(v, have, want) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_filled(v, have, want) for v in value))
    if isinstance(value, (list, tuple)):
        if len(value) == have and not any(isinstance(v, Tensor) for v in value):
            return type(value)([*value, *[value[-1]] * (want - have)])
        return type(value)(_filled(v, have, want) for v in value)
    return value
