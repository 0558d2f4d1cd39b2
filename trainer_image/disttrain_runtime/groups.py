"""The group of ranks of one incarnation, and the few things it says to itself outside the strategy.

No object collectives: they pickle. What is not a tensor travels as bytes in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from disttrain_runtime.connections import Connections

CHUNK = 64 * 1024 * 1024
"""Bytes per broadcast: large enough for bandwidth, small enough that no rank needs the state twice."""


@dataclass(frozen=True, slots=True)
class Group:
    """Who takes part. Every method is a collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    device: torch.device
    per_worker: int = 1
    """Ranks in one pod."""
    channel: dist.ProcessGroup | None = None
    """Connections of its own for what goes from rank to rank. None: those of the collectives."""

    @property
    def leads(self) -> bool:
        """Rank 0 reports and writes."""
        return self.rank == 0

    def beside(self) -> Group:
        """The same ranks; what goes from rank to rank has connections of its own. A collective."""
        return replace(self, channel=make_channel())

    def agree(self, wishes: Sequence[int]) -> list[int]:
        """The largest value of each wish over all ranks: one tiny all-reduce on the CPU."""
        return self.start_agree(wishes)()

    def start_agree(self, wishes: Sequence[int]) -> Callable[[], list[int]]:
        """The same, begun now; what is given waits for it."""
        values = torch.tensor(wishes, dtype=torch.int64)
        work = begun(dist.all_reduce(values, op=dist.ReduceOp.MAX, async_op=True))

        def agreed() -> list[int]:
            work.wait()
            return [int(v) for v in values.tolist()]

        return agreed

    def gather(self, value: int) -> list[int]:
        """Each rank's value, by rank."""
        return [row[0] for row in self.gather_rows([value])]

    def gather_rows(self, row: Sequence[int]) -> list[list[int]]:
        """Each rank's values, by rank; as many on all ranks."""
        values = torch.zeros(self.world_size * len(row), dtype=torch.int64)
        dist.all_gather_into_tensor(values, torch.tensor(row, dtype=torch.int64))
        return values.view(self.world_size, len(row)).tolist()

    def send(self, tensor: Tensor, to: int) -> None:
        """To one rank, which must be receiving. CPU memory only, as are the next three."""
        dist.send(tensor, dst=to, group=self.channel)

    def receive(self, tensor: Tensor, giver: int) -> None:
        """From one rank, into this tensor."""
        dist.recv(tensor, src=giver, group=self.channel)

    def start_send(self, tensor: Tensor, to: int) -> dist.Work:
        """The tensor must stay as it is until the returned work is waited for."""
        return begun(dist.isend(tensor, dst=to, group=self.channel))

    def start_receive(self, tensor: Tensor, giver: int) -> dist.Work:
        """The tensor holds what was sent once the returned work is waited for."""
        return begun(dist.irecv(tensor, src=giver, group=self.channel))

    def total(self, values: Sequence[float] | Tensor) -> list[float]:
        """The sum of each value over all ranks, in double precision."""
        sums = torch.as_tensor(values, dtype=torch.float64).cpu().clone()
        dist.all_reduce(sums)
        return [float(v) for v in sums.tolist()]

    def broadcast(self, data: bytes | None, giver: int = 0) -> bytes:
        """One rank's bytes, on every rank."""
        length = torch.tensor([len(data) if data is not None else 0], dtype=torch.int64)
        dist.broadcast(length, src=giver)
        whole = bytearray(data) if self.rank == giver and data is not None else bytearray(int(length.item()))
        if whole:
            flat = torch.frombuffer(whole, dtype=torch.uint8)
            for start in range(0, len(whole), CHUNK):
                dist.broadcast(flat[start : start + CHUNK], src=giver)
        return bytes(whole)

    def equalise(self, tensors: Iterable[Tensor], giver: int = 0) -> None:
        """One rank's values, in place, on every rank; as bytes, because gloo does not know every dtype."""
        for tensor in tensors:
            flat = tensor.detach().contiguous()
            if flat.numel():
                dist.broadcast(flat.view(-1).view(torch.uint8), src=giver)
            if flat.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(flat)

    def barrier(self) -> None:
        """Wait for everybody."""
        self.agree([0])


def make_channel() -> dist.ProcessGroup:
    """A collective. For threads, so that they and the loop's collectives never take each other's messages. CPU memory only."""
    made = dist.new_group(backend="gloo")
    assert isinstance(made, dist.ProcessGroup), "every rank is in it"
    return made


def begun(work: dist.Work | None) -> dist.Work:
    """What was started; the library gives nothing to a rank that is not in the group."""
    if work is None:
        raise RuntimeError("this rank is not in the group")
    return work


def break_group(connections: Connections) -> None:
    """End every wait in the present group's collectives, here and on its peers. Callable from any thread."""
    if torch.cuda.is_available() and dist.is_initialized():  # NCCL has an abort of its own
        with suppress(Exception):
            dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda")).abort()
    connections.cut()


def leave_group() -> None:
    """Close this rank's connections, so that nobody waits for it."""
    if dist.is_initialized():
        dist.destroy_process_group()
