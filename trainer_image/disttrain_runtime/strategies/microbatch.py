"""A batch in parts, one after the other, so that only one part's activations are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.sampler import split


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Some samples of a batch."""

    inputs: Any
    targets: Any
    part: float
    """Its share of the batch's samples: the weights of all microbatches add up to 1."""
    last: bool


def microbatches(batch: Batch, count: int) -> Iterator[Microbatch]:
    """As many nearly equal parts, or one for each sample if there are fewer."""
    samples = len(batch.share.indices)
    parts = min(count, samples)
    if parts == 1:
        yield Microbatch(batch.inputs, batch.targets, 1.0, last=True)
        return
    for number in range(parts):
        first, end = split(samples, number, parts)
        yield Microbatch(
            cut(batch.inputs, first, end, samples),
            cut(batch.targets, first, end, samples),
            (end - first) / samples,
            last=number == parts - 1,
        )


def cut(value: Any, first: int, end: int, samples: int) -> Any:
    """These samples of a collated value, however it nests. Raises TaskError when a tensor has no sample dimension."""
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) != samples:
            raise TaskError(
                f"strategy.accumulate and pipelines cut batches along their first dimension, but a tensor of shape {tuple(value.shape)} "
                f"came with a batch of {samples} samples: collate samples along dimension 0, or leave them out"
            )
        return value[first:end]
    if isinstance(value, dict):
        return {k: cut(v, first, end, samples) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cut(v, first, end, samples) for v in value))
    if isinstance(value, (list, tuple)):
        if len(value) == samples and not any(isinstance(v, Tensor) for v in value):
            return value[first:end]  # one plain value for each sample
        return type(value)(cut(v, first, end, samples) for v in value)
    return value
