"""Is the state worth keeping? Finite, and bit by bit the same on every rank.

Replicas start equal and do equal things, so any difference is a fault: of memory, of a processor, or of a program that
changes parameters behind the strategy's back. Nothing else shows it; the loss goes on falling for a long time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from disttrain_runtime.errors import DivergedError, NonFiniteError
from disttrain_runtime.groups import Group

MAX_SHARE = 0.004
"""Of the time that all checks together may take: below half a percent."""
_PRIME = (1 << 61) - 1
"""Digests are taken modulo this: their negatives fit 64 bits, too, and each single bit still counts."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_OTHERS = -1
"""Below every digest."""


class Guard:
    """One rank's part. `check` is a collective."""

    def __init__(
        self, group: Group, replicated: Callable[[], Sequence[Tensor]], clock: Callable[[], float],
        held: Callable[[], Sequence[Tensor]] = tuple,
    ) -> None:  # fmt: skip
        self._group, self._replicated, self._held, self._clock = group, replicated, held, clock
        self._not_before = -math.inf

    def due(self, now: float) -> bool:
        """Rank 0's wish: as often as it costs next to nothing."""
        return now >= self._not_before

    def check(self, step: int) -> None:
        """Raises on the ranks that must not go on; the others return, and see their group break."""
        began = self._clock()
        mine, sound = inspect(self._replicated())
        sound = inspect(self._held())[1] and sound
        largest, negative_smallest, somewhere = self._group.agree([mine, -mine, not sound])
        if somewhere:
            raise NonFiniteError(
                f"parameters are NaN or infinite after step {step}{' on another rank' if sound else ''}: "
                f"lower the learning rate, clip gradients, or look at the data of this step"
            )
        if largest != -negative_smallest:
            self._blame(step, mine)
        ended = self._clock()
        self._not_before = ended + (ended - began) / MAX_SHARE

    def _blame(self, step: int, mine: int) -> None:
        """All ranks are here, because all saw the same two numbers."""
        rank, size = self._group.rank, self._group.world_size
        digests = self._group.agree([mine if r == rank else _OTHERS for r in range(size)])
        odd = minority(digests)
        if odd is None:
            raise DivergedError(
                f"replicas differ after step {step}, and no majority says which one is right: the group starts from a checkpoint"
            )
        if rank in odd:
            raise DivergedError(
                f"the replica of rank {rank} differs from the {size - len(odd)} that agree after step {step}: "
                f"a fault of memory or processor, or code that changes parameters on one rank only"
            )


def inspect(tensors: Sequence[Tensor]) -> tuple[int, bool]:
    """A digest in which every single bit counts, and whether all are finite.

    Two sums of each tensor: of its bit patterns as integers, and of its values, which a single NaN or infinity spoils.
    The second one reads what the first has brought into the cache.
    """
    sums: list[Tensor] = []
    totals: list[Tensor] = []
    for tensor in tensors:
        if tensor.numel():
            plain = _plain(tensor.detach())
            sums.append(_sum(plain))
            if plain.is_floating_point():
                totals.append(plain.sum(dtype=torch.promote_types(plain.dtype, torch.float32)).double())
    if not sums:
        return 0, True
    together = torch.stack(sums).tolist()  # one copy from the device, and one more below
    digest = sum((i + 1) * int(value) for i, value in enumerate(together)) % _PRIME
    return digest, not totals or bool(torch.isfinite(torch.stack(totals)).all())


def minority(digests: Sequence[int]) -> frozenset[int] | None:
    """Ranks that differ from more than half of all; None when there is no such half."""
    (common, votes), *_ = Counter(digests).most_common(1)
    if 2 * votes <= len(digests):
        return None
    return frozenset(rank for rank, value in enumerate(digests) if value != common)


def require_finite(loss: Tensor, step: int, rank: int) -> None:
    """Before the gradients are exchanged: then no replica has seen them, and all stay as they were.

    On a GPU it would make the processor wait in every step. There the parameters are looked at, by the guard, before each
    save and as often as its cost allows.
    """
    if loss.device.type == "cpu" and not math.isfinite(value := loss.item()):
        raise NonFiniteError(
            f"the loss of rank {rank} is {value} in step {step}: lower the learning rate, clip gradients, or look at the data of this step"
        )


def _plain(tensor: Tensor) -> Tensor:
    """One dimension, real numbers."""
    flat = tensor.contiguous().view(-1)
    return torch.view_as_real(flat).view(-1) if flat.is_complex() else flat


def _sum(flat: Tensor) -> Tensor:
    """In 64-bit words where the length allows it, else element by element; overflow wraps around and loses no bit.

    Equal tensors give equal sums wherever they lie in memory: a replica that got its state from another one may differ there.
    """
    size = flat.element_size()
    words = flat.view(_INTEGERS[size])
    if words.numel() * size % 8:
        return words.sum(dtype=words.dtype).to(torch.int64)
    aligned = words if words.storage_offset() * size % 8 == 0 else words.clone()
    return aligned.view(torch.int64).sum()
