"""The way of gradients to parameter servers and of parameters back, from one meeting to the next, beside training.

The rank's own thread pushes and pulls. One thread for each server takes what that server sends; on a server, one more
takes what the other ranks push, updates, and sends. All know how many messages will come until the next meeting, so all
end there by themselves; when the group breaks, their connections are cut, and the error that they get is raised where the
rank's own thread waits next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Lock, Thread

import torch
import torch.distributed as dist
from torch import Tensor, nn

from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.shard_server import ShardServer, cut, flat

_GRADIENT, _PARAMETERS, _NUMBER = 1, 2, 3
"""Tags: what a message is."""
_FORSAKEN_SECONDS = 10.0
"""For a thread to notice that its connection was cut; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parameters each server owns, by their place in the model."""

    indices: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Of servers: ranks 0 and up."""
        return len(self.indices)

    @classmethod
    def of(cls, sizes: Sequence[int], servers: int) -> Parts:
        """Whole tensors, the largest first, each to the server that has least. No server goes without. Pure."""
        bins: list[list[int]] = [[] for _ in range(min(servers, len(sizes)))]
        for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
            min(bins, key=lambda held: (sum(sizes[i] for i in held), len(held))).append(index)
        return cls(tuple(tuple(sorted(held)) for held in bins))


class Leg:
    """From one meeting to the next."""

    def __init__(
        self,
        group: Group,
        channel: dist.ProcessGroup,
        parts: Parts,
        trained: Sequence[nn.Parameter],
        server: ShardServer | None,
        length: int,
    ) -> None:
        self._group, self._channel, self._server, self._length = group, channel, server, length
        self._trained = trained
        self._parts = [[trained[i] for i in indices] for indices in parts.indices]
        self._pushed = 0
        self._updates = [0] * parts.count
        """By part: how many updates are in the newest parameters that are here."""
        self._newest: list[Tensor | None] = [None] * parts.count
        self._error: Exception | None = None
        self._changed, self._serving = Condition(), Lock()
        self._pushes: list[dist.Work] = []
        self._answers: list[dist.Work] = []
        self._threads: list[Thread] = []
        for number in range(parts.count):
            if number != group.rank:
                self._start(lambda number=number: self._take_parameters(number))  # type: ignore[misc]
        if server is not None and group.world_size > 1:
            self._start(self._take_gradients)

    def pull(self, staleness: int) -> int:
        """Put the newest parameters into the model, as soon as no more updates are missing. Gives how many are missing."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or min(self._updates) >= self._pushed - staleness)
            if self._error is not None:
                raise self._error
            newest, self._newest = self._newest, [None] * len(self._newest)
            missing = self._pushed - min(self._updates)
        with torch.no_grad():
            for row, parameters in zip(newest, self._parts, strict=True):
                if row is not None:
                    for parameter, value in zip(parameters, cut(row, parameters), strict=True):
                        parameter.copy_(value)
        return missing

    def push(self, gradients: Sequence[Tensor]) -> None:
        """Send each server its part; what is under way when this returns is waited for by the next one.

        The rank's own part comes last: a server that waits for the others' norms must have given them its gradients.
        """
        by_parameter = {id(p): g for p, g in zip(self._trained, gradients, strict=True)}
        rows = [flat([by_parameter[id(p)] for p in parameters]) for parameters in self._parts]
        self._wait(self._pushes)
        self._pushes = [
            self._send(row, to, _GRADIENT) for to, row in enumerate(rows) if to != self._group.rank
        ]  # fmt: skip
        self._pushed += 1
        if self._server is not None:
            self._serve(self._group.rank, rows[self._group.rank])

    def end(self) -> None:
        """Everything pushed, everything updated, everything here."""
        self._wait(self._pushes)
        self.pull(staleness=0)
        for thread in self._threads:
            thread.join()
        self._wait(self._answers)
        if self._error is not None:
            raise self._error

    def forsake(self) -> None:
        """The group is gone, and its connections are cut: no thread may reach into what comes after."""
        for thread in self._threads:
            thread.join(_FORSAKEN_SECONDS)

    def _serve(self, rank: int, gradient: Tensor) -> None:
        assert self._server is not None
        with self._serving:
            row = self._server.add(rank, gradient, self._group.world_size, self._total)
            if row is None:
                return
            self._wait(self._answers)
            others = (to for to in range(self._group.world_size) if to != self._group.rank)
            self._answers = [self._send(row, to, _PARAMETERS) for to in others]
        self._arrived(self._group.rank, row)

    def _arrived(self, number: int, row: Tensor) -> None:
        with self._changed:
            self._updates[number] += 1
            self._newest[number] = row
            self._changed.notify_all()

    def _take_gradients(self) -> None:
        like = self._parts[self._group.rank]
        for _ in range((self._group.world_size - 1) * self._length):
            row = _row(like)
            self._serve(dist.recv(row, group=self._channel, tag=_GRADIENT), row)

    def _take_parameters(self, number: int) -> None:
        for _ in range(self._length):
            row = _row(self._parts[number])
            dist.recv(row, src=number, group=self._channel, tag=_PARAMETERS)
            self._arrived(number, row)

    def _total(self, number: float) -> float:
        """Over the servers, which all come here in the same step; added up in their order."""
        own, count = self._group.rank, len(self._parts)
        values = [torch.tensor([number if n == own else 0.0], dtype=torch.float64) for n in range(count)]
        sends = [self._send(values[own], to, _NUMBER) for to in range(count) if to != own]
        for giver in range(count):
            if giver != own:
                dist.recv(values[giver], src=giver, group=self._channel, tag=_NUMBER)
        self._wait(sends)
        return float(sum(value.item() for value in values))

    def _send(self, row: Tensor, to: int, tag: int) -> dist.Work:
        work = dist.isend(row, dst=to, group=self._channel, tag=tag)
        assert work is not None, "this rank is in the channel"
        return work

    def _wait(self, works: list[dist.Work]) -> None:
        while works:
            works.pop(0).wait()

    def _start(self, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

        self._threads.append(Thread(target=guarded, daemon=True))
        self._threads[-1].start()


def _row(like: Sequence[Tensor]) -> Tensor:
    """Memory for a message: as `flat` would make it."""
    return torch.empty(sum(t.numel() for t in like), dtype=torch.cat([t.new_empty(0) for t in like]).dtype)
