"""Sums over all ranks, each with its weight: what methods that exchange parameters exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from disttrain_runtime.groups import begun

BUCKET = 32 * 1024 * 1024
"""Bytes per collective: large enough for bandwidth, small enough that no rank needs the state twice."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors of one kind that lie in one piece of memory, to travel together."""

    places: tuple[int, ...]
    """Which of the tensors."""
    flat: Tensor


@dataclass(slots=True)
class Samples:
    """What a rank trained on in some steps, and all ranks together: the share is its weight."""

    own: int = 0
    total: int = 0

    def add(self, own: int, total: int) -> None:
        """One step."""
        self.own += own
        self.total += total

    @property
    def weight(self) -> float:
        """Over all ranks it adds up to 1."""
        return self.own / self.total if self.total else 0.0


class Room:
    """Memory for buckets, used again: for the kernel to find new memory takes longer than to fill it.

    What was packed is good until the next time. A group that breaks may still write to it: its successor gets another one.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Tensor] = {}

    def row(self, number: int, size: int, like: tuple[torch.dtype, torch.device]) -> Tensor:
        """For the bucket of this number."""
        held = self._rows.get(number)
        if held is None or held.numel() != size or (held.dtype, held.device) != like:
            held = self._rows[number] = torch.empty(size, dtype=like[0], device=like[1])
        return held


class Sum:
    """A weighted sum that may still be under way. All ranks begin the same ones in the same order."""

    def __init__(
        self,
        tensors: Sequence[Tensor],
        weight: float,
        room: Room | None = None,
        minus: Sequence[Tensor] | None = None,
    ) -> None:
        """The tensors may change as soon as this returns."""
        self._tensors = tensors
        self._buckets = pack(tensors, room, minus)
        for bucket in self._buckets:
            bucket.flat.mul_(weight)
        self._works = [begun(dist.all_reduce(b.flat, async_op=True)) for b in self._buckets]

    def arrived(self) -> bool:
        """Whether `wait` would not wait."""
        return all(work.is_completed() for work in self._works)

    def wait(self) -> list[Tensor]:
        """The sums, each of the shape and on the device of its tensor."""
        for work in self._works:
            work.wait()
        return unpack(self._buckets, self._tensors)


def weighted_sum(
    tensors: Sequence[Tensor], weight: float, room: Room | None = None, minus: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Σ over ranks of weight × tensor (or difference), the same bits on all ranks. A collective: 2 (W-1)/W of the bytes
    go out of each rank."""
    return Sum(tensors, weight, room, minus).wait()


@torch.no_grad()
def average_(tensors: Sequence[Tensor], weight: float, room: Room | None = None) -> list[Tensor]:
    """The weighted sum in place, and beside it in the room. Weights add up to 1 over the ranks."""
    means = weighted_sum(tensors, weight, room)
    for tensor, value in zip(tensors, means, strict=True):
        tensor.copy_(value)
    return means


@torch.no_grad()
def pack(tensors: Sequence[Tensor], room: Room | None = None, minus: Sequence[Tensor] | None = None) -> list[Bucket]:
    """Copies, or differences, one dtype and device a bucket, in order. What is narrower than 32 bits is widened: sums lose bits."""
    buckets = laid_out(tensors, room)
    if minus is not None:
        for one, other, place in zip(tensors, minus, unpack(buckets, tensors), strict=True):
            torch.sub(one, other, out=place)
        return buckets
    for bucket in buckets:
        torch.cat([tensors[i].detach().reshape(-1).to(bucket.flat.dtype) for i in bucket.places], out=bucket.flat)
    return buckets


def laid_out(tensors: Sequence[Tensor], room: Room | None = None) -> list[Bucket]:
    """Buckets for these tensors, of which nothing is filled in."""
    room = room or Room()
    found: list[Bucket] = []
    for number, places in enumerate(_divided(tensors)):
        like = wide(tensors[places[0]].dtype), tensors[places[0]].device
        size = sum(tensors[i].numel() for i in places)
        found.append(Bucket(tuple(places), room.row(number, size, like)))
    return found


def unpack(buckets: Sequence[Bucket], like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse, except that what was widened stays wide."""
    found: dict[int, Tensor] = {}
    for bucket in buckets:
        parts = torch.split(bucket.flat, [like[i].numel() for i in bucket.places])
        found |= {i: part.view(like[i].shape) for i, part in zip(bucket.places, parts, strict=True)}
    return [found[i] for i in range(len(like))]


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums of it are taken in."""
    return torch.promote_types(dtype, torch.float32)


def _divided(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((wide(tensor.dtype), tensor.device), []).append(i)
    for (dtype, _), places in kinds.items():
        held: list[int] = []
        size = 0
        for i in places:
            bytes_ = tensors[i].numel() * dtype.itemsize
            if held and size + bytes_ > BUCKET:
                yield held
                held, size = [], 0
            held.append(i)
            size += bytes_
        yield held
