"""The group of ranks of one incarnation, and the few things it says to itself outside the strategy.

No object collectives: they pickle. What is not a tensor travels as bytes in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from disttrain_runtime.config import Place

TIMEOUT = timedelta(minutes=30)
"""torch's own default for gloo. A dead peer is seen at once by its closed connection; this only ends what nobody watches."""

CHUNK = 64 * 1024 * 1024
"""Bytes per broadcast: large enough for bandwidth, small enough that no rank needs the state twice."""


@dataclass(frozen=True, slots=True)
class Group:
    """Who takes part. Every method is a collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Rank 0 reports and writes."""
        return self.rank == 0

    def agree(self, wishes: Sequence[int]) -> list[int]:
        """The largest value of each wish over all ranks: one tiny all-reduce on the CPU."""
        values = torch.tensor(wishes, dtype=torch.int64)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [int(v) for v in values.tolist()]

    def total(self, values: Sequence[float] | Tensor) -> list[float]:
        """The sum of each value over all ranks, in double precision."""
        sums = torch.as_tensor(values, dtype=torch.float64).cpu().clone()
        dist.all_reduce(sums)
        return [float(v) for v in sums.tolist()]

    def broadcast(self, data: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank."""
        length = torch.tensor([len(data) if data is not None else 0], dtype=torch.int64)
        dist.broadcast(length, src=0)
        whole = bytearray(data) if self.leads and data is not None else bytearray(int(length.item()))
        if whole:
            flat = torch.frombuffer(whole, dtype=torch.uint8)
            for start in range(0, len(whole), CHUNK):
                dist.broadcast(flat[start : start + CHUNK], src=0)
        return bytes(whole)

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Rank 0's values, in place, on every rank; as bytes, because gloo does not know every dtype."""
        for tensor in tensors:
            flat = tensor.detach().contiguous()
            if flat.numel():
                dist.broadcast(flat.view(-1).view(torch.uint8), src=0)
            if flat.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(flat)

    def barrier(self) -> None:
        """Wait for everybody."""
        self.agree([0])


def form_group(place: Place) -> Group:
    """Meet the others at MASTER_ADDR:MASTER_PORT. GPU: NCCL, one process per GPU, gloo for words; no GPU: gloo for all."""
    device = torch.device("cpu")
    backend = "gloo"
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", place.local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    # Alone there is no address to meet at.
    store = dist.HashStore() if place.world_size == 1 else None  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT)
    return Group(place.rank, place.world_size, device)


def leave_group() -> None:
    """Close this rank's connections, so that nobody waits for it."""
    if dist.is_initialized():
        dist.destroy_process_group()
