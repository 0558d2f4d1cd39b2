"""The way of gradients to parameter servers and of parameters back, from one meeting to the next, beside training.

The rank's own thread pushes and pulls. One thread for each server takes what that server sends; on a server, one more
takes what all ranks push, updates, and sends. All know how many messages will come until the next meeting, so all
end there by themselves; when the group breaks, their connections are cut, and the error that they get is raised where the
rank's own thread waits next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Condition, Thread

import torch
import torch.distributed as dist
from torch import Tensor, nn

from disttrain_runtime.errors import PeerGoneError
from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.rows import Pool, Row
from disttrain_runtime.strategies.shard_server import ShardServer, common_dtype, cut, flat

_Coming = tuple[Row, dist.Work]
"""The place of a message, and the wait for it."""
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
        staleness: int,
        pool: Pool,
    ) -> None:
        self._group, self._channel, self._length, self._staleness = group, channel, length, staleness
        self._trained, self._pool = trained, pool
        self._parts = [[trained[i] for i in indices] for indices in parts.indices]
        self._kinds = [(sum(t.numel() for t in part), common_dtype(part)) for part in self._parts]
        """By part: size and dtype of its messages."""
        self._pushed = 0
        self._updates = [0] * parts.count
        """By part: how many updates are in the newest parameters that are here."""
        self._newest: list[Row | None] = [None] * parts.count
        self._error: Exception | None = None
        self._changed = Condition()
        self._own: SimpleQueue[Row | None] = SimpleQueue()
        """From the rank to the server that it is, too. None: there will be no more."""
        self._pushes: list[_Coming] = []
        self._threads: list[Thread] = []
        for number in range(parts.count):
            if number != group.rank:
                self._start(lambda number=number: self._take_parameters(number))  # type: ignore[misc]
        if server is not None:
            self._start(lambda: self._serve(server))

    def pull(self) -> int:
        """Put the newest parameters into the model, as soon as no more updates are missing than may. Gives how many are."""
        return self._pull(self._staleness)

    def _pull(self, staleness: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._error or min(self._updates) >= self._pushed - staleness)
            if self._error is not None:
                raise self._error
            newest, self._newest = self._newest, [None] * len(self._newest)
            missing = self._pushed - min(self._updates)
        with torch.no_grad():
            for row, parameters in zip(newest, self._parts, strict=True):
                if row is not None:
                    for parameter, value in zip(parameters, cut(row.values, parameters), strict=True):
                        parameter.copy_(value)
                    row.done()
        return missing

    def push(self, gradients: Sequence[Tensor]) -> None:
        """Send each server its part; what is under way when this returns is waited for by the next one."""
        by_parameter = {id(p): g for p, g in zip(self._trained, gradients, strict=True)}
        self._wait(self._pushes)
        for to, parameters in enumerate(self._parts):
            row = self._pool.take(*self._kinds[to])
            flat([by_parameter[id(p)] for p in parameters], row.values)
            if to == self._group.rank:
                self._own.put(row)
            else:
                self._pushes.append((row, self._send(row.values, to, _GRADIENT)))
        self._pushed += 1

    def end(self) -> None:
        """Everything pushed, everything updated, everything here."""
        self._wait(self._pushes)
        self._pull(0)
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def forsake(self) -> None:
        """The group is gone, and its connections are cut: no thread may reach into what comes after."""
        self._own.put(None)
        for thread in self._threads:
            thread.join(_FORSAKEN_SECONDS)

    def _serve(self, server: ShardServer) -> None:
        """Each step's gradients in the order of ranks, so that equal runs give equal bits."""
        own, ranks = self._group.rank, range(self._group.world_size)
        # Room for what may come before its turn; from any rank at once, gloo would not notice when one of them dies.
        coming = {rank: self._expect(rank, self._staleness + 1) for rank in ranks if rank != own}
        sends: list[_Coming] = []
        for step in range(self._length):
            rows: list[Row] = []
            for rank in ranks:
                rows.append(self._own_gradient() if rank == own else _arrival(coming[rank].popleft()))
                server.add(rows[-1].values)
                if len(rows) > 1:  # the first one is what the others are added to
                    rows.pop().done()
                if rank != own and step + self._staleness + 1 < self._length:
                    coming[rank] += self._expect(rank, 1)
            self._wait(sends)
            new = self._pool.take(*self._kinds[own], users=len(ranks))
            server.update(len(ranks), self._total, new.values)
            rows[0].done()
            sends += [(new, self._send(new.values, to, _PARAMETERS)) for to in ranks if to != own]
            self._arrived(own, new)
        self._wait(sends)

    def _expect(self, rank: int, count: int) -> deque[_Coming]:
        """This rank's next gradients."""
        rows = [self._pool.take(*self._kinds[self._group.rank]) for _ in range(min(count, self._length))]
        return deque((row, _begun(dist.irecv(row.values, rank, self._channel, _GRADIENT))) for row in rows)

    def _own_gradient(self) -> Row:
        row = self._own.get()
        if row is None:
            raise PeerGoneError("the group was over before its next meeting")
        return row

    def _arrived(self, number: int, row: Row) -> None:
        with self._changed:
            self._updates[number] += 1
            older, self._newest[number] = self._newest[number], row
            self._changed.notify_all()
        if older is not None:
            older.done()

    def _take_parameters(self, number: int) -> None:
        for _ in range(self._length):
            row = self._pool.take(*self._kinds[number])
            dist.recv(row.values, src=number, group=self._channel, tag=_PARAMETERS)
            self._arrived(number, row)

    def _total(self, number: float) -> float:
        """Over the servers, which all come here in the same step; added up in their order."""
        own, count = self._group.rank, len(self._parts)
        values = [torch.tensor([number if n == own else 0.0], dtype=torch.float64) for n in range(count)]
        works = [self._send(values[own], to, _NUMBER) for to in range(count) if to != own]
        for giver in range(count):
            if giver != own:
                dist.recv(values[giver], src=giver, group=self._channel, tag=_NUMBER)
        for work in works:
            work.wait()
        return float(sum(value.item() for value in values))

    def _send(self, row: Tensor, to: int, tag: int) -> dist.Work:
        return _begun(dist.isend(row, to, self._channel, tag))

    def _wait(self, sends: list[_Coming]) -> None:
        while sends:
            row, work = sends.pop(0)
            work.wait()
            row.done()

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


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is in the channel"
    return work


def _arrival(coming: _Coming) -> Row:
    row, work = coming
    work.wait()
    return row
