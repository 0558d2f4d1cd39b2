"""The same with torch alone: what somebody would write who needs no recovery, no reports and no exact uneven batches.

Where torch has the method (DDP, its communication hooks, its model averaging, FSDP2, tensor parallel, pipelining), it is torch's.
Where it has none, a minimal loop with the same collectives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.distributed.algorithms.model_averaging import averagers, utils
from typing_extensions import override

from benchmarks.strategies import bare_hooks
from benchmarks.strategies.bare_ddp import Ddp
from benchmarks.strategies.bare_loop import Bare
from disttrain_runtime.groups import begun


class Fp16(Ddp):
    """torch's hook, and the error feedback that it lacks."""

    @override
    def hook(self) -> tuple[Any, Callable[..., Any]]:
        return bare_hooks.Half(torch.float16), bare_hooks.half_with_feedback


class Bf16(Ddp):
    """torch's hook, and the error feedback that it lacks."""

    @override
    def hook(self) -> tuple[Any, Callable[..., Any]]:
        return bare_hooks.Half(torch.bfloat16), bare_hooks.half_with_feedback


class PowerSGD(Ddp):
    """torch's hook with its error feedback, one bucket after the other: on gloo its inner all-reduces meet in any order otherwise."""

    @override
    def hook(self) -> tuple[Any, Callable[..., Any]]:
        state = powerSGD_hook.PowerSGDState(None, self.chosen["rank"], start_powerSGD_iter=2)
        return state, bare_hooks.power_sgd_in_turn


class TopK(Ddp):
    """A minimal hook."""

    @override
    def hook(self) -> tuple[Any, Callable[..., Any]]:
        return bare_hooks.TopK(self.chosen["ratio"]), bare_hooks.gather


class Sign(Ddp):
    """A minimal hook."""

    @override
    def hook(self) -> tuple[Any, Callable[..., Any]]:
        return bare_hooks.Sign(), bare_hooks.gather


class Local(Bare):
    """Each rank alone, and something every few steps."""

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.task.model(inputs), targets))
        self.optimizer.step()
        self.exchange()

    @property
    def live(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self.task.model.parameters())

    @property
    def row(self) -> Tensor:
        """All parameters in one vector: a copy."""
        return nn.utils.parameters_to_vector(self.live).detach()

    def put(self, row: Tensor) -> None:
        """Its inverse."""
        nn.utils.vector_to_parameters(row, self.live)

    @abstractmethod
    def exchange(self) -> None:
        """After every step."""


class Averaging(Local):
    """torch's periodic averaging, of the moments as well."""

    @override
    def begin(self) -> None:
        super().begin()
        self.averager = averagers.PeriodicModelAverager(period=self.chosen["every_steps"])

    @override
    def exchange(self) -> None:
        last = self.steps % self.chosen["every_steps"] == 0
        self.averager.step = 0 if last else 1  # its own count begins with an exchange
        self.averager.average_parameters(iter(self.live))
        if last:
            slots = [self.optimizer.state[p] for p in self.live]
            moments = [slot[name] for slot in slots for name in ("exp_avg", "exp_avg_sq")]
            utils.average_parameters(iter(moments), dist.distributed_c10d._get_default_group())


class DiLoCo(Local):
    """An outer SGD with Nesterov momentum."""

    @override
    def begin(self) -> None:
        super().begin()
        self.common = nn.Parameter(self.row)
        self.outer = torch.optim.SGD([self.common], lr=0.7, momentum=0.9, nesterov=True)

    @override
    def exchange(self) -> None:
        if self.steps % self.chosen["every_steps"]:
            return
        delta = (self.common.detach() - self.row) / self.world
        dist.all_reduce(delta)
        self.common.grad = delta
        self.outer.step()
        self.put(self.common.detach())


class Turns(Local):
    """One rank's progress at a time."""

    @override
    def begin(self) -> None:
        super().begin()
        self.common = self.row

    @override
    def exchange(self) -> None:
        every = self.chosen["every_steps"]
        if self.steps % every:
            return
        turn = (self.steps // every - 1) % self.world
        row = self.row
        told = (row - self.common) / self.world
        dist.broadcast(told, turn)
        self.common += told
        self.put(self.common.clone() if turn == self.rank else row + told)


class Ring(Local):
    """All-reduces of progress that are waited for some steps later."""

    @override
    def begin(self) -> None:
        super().begin()
        self.told = self.row
        self.under_way: deque[tuple[int, Tensor, Tensor, Any]] = deque()

    @override
    def exchange(self) -> None:
        row = self.row
        own = row - self.told
        self.told = row
        sum_ = own / self.world
        self.under_way.append((self.steps, own, sum_, dist.all_reduce(sum_, async_op=True)))
        meets = self.steps % self.chosen["meet_every_steps"] == 0
        while self.under_way and (meets or self._due(self.under_way[0])):
            _, own, sum_, work = self.under_way.popleft()
            work.wait()
            self.told = self.told + (sum_ - own)
        self.put(self.told.clone())

    def _due(self, round_: tuple[int, Tensor, Tensor, Any]) -> bool:
        begun, _, _, work = round_
        return bool(work.is_completed()) or self.steps - begun >= self.chosen["max_staleness"]


class Gossip(Local):
    """To the next rank, and from the one before; the mean at each meeting."""

    @override
    def exchange(self) -> None:
        row = self.row
        other = torch.empty_like(row)
        towards, source = (self.rank + 1) % self.world, (self.rank - 1) % self.world
        for work in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, row, towards), dist.P2POp(dist.irecv, other, source)]
        ):
            work.wait()
        mixed = (row + other) / 2
        if self.steps % self.chosen["meet_every_steps"] == 0:
            dist.all_reduce(mixed)
            mixed /= self.world
        self.put(mixed)


class Servers(Bare):
    """Each rank owns some tensors: gradients are reduced to it, it updates, and sends them out."""

    @override
    def begin(self) -> None:
        parameters = sorted(self.task.model.parameters(), key=lambda p: -p.numel())
        self.owned: list[list[nn.Parameter]] = [[] for _ in range(self.world)]
        for parameter in parameters:
            min(self.owned, key=lambda held: sum(p.numel() for p in held)).append(parameter)
        self.optimizer = self.task.optimizer(iter(self.owned[self.rank]))

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.task.model.zero_grad()
        torch.autograd.backward(self.task.loss(self.task.model(inputs), targets))
        rows = [_flat([p.grad for p in held if p.grad is not None]) for held in self.owned]
        works = [begun(dist.reduce(row, owner, async_op=True)) for owner, row in enumerate(rows)]
        for work in works:
            work.wait()
        for parameter, part in zip(self.owned[self.rank], _cut(rows[self.rank], self.owned[self.rank]), strict=True):
            parameter.grad = part / self.world
        self.optimizer.step()
        rows = [_flat(held) for held in self.owned]
        works = [begun(dist.broadcast(row, owner, async_op=True)) for owner, row in enumerate(rows)]
        for work in works:
            work.wait()
        with torch.no_grad():
            for row, held in zip(rows, self.owned, strict=True):
                for parameter, part in zip(held, _cut(row, held), strict=True):
                    parameter.copy_(part)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _cut(row: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(row, [t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]
