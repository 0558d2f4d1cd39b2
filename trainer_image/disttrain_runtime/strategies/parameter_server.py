"""Workers push gradients; servers average, update and send parameters back: Li et al. 2014, "Scaling Distributed Machine
Learning with the Parameter Server".

The servers are the first k ranks of the group: each trains like every other rank, and beside that owns a part of the model with
the optimizer's state of that part. That needs no other kind of pod, leaves no processor idle, and a server that dies is a rank
that dies. With N parameters in all and n of them in a server's part

    workers → server: g        server, once it has those of all W ranks: p ← optimizer(p, mean g)        server → workers: p

Bytes per step over all ranks: 2 (W-1) · 4N, whatever k; k = W spreads them evenly, as a ring does.

**Staleness.** A rank may begin its step t as soon as each part has at least t - s updates (bounded delay; Ho et al. 2013, "More
Effective Distributed ML via a Stale Synchronous Parallel Parameter Server"). s = 0 is synchronous training. Whatever s is,
update t is made from the gradients of step t of all ranks, added up in the order of ranks: uneven batches, schedules and
optimizers mean what they mean elsewhere, and nothing but the age of the parameters differs.

**Meetings.** Every `MEETING` steps everybody waits for all updates, and each server gives all ranks its optimizer's state: from
there a group that breaks goes on, whoever died, also with other servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.checkpoint.structure import tensors_in
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.groups import Group, make_channel
from disttrain_runtime.strategies.kept import Kept, place_of
from disttrain_runtime.strategies.push_pull import Leg, Parts
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.strategies.rows import Pool
from disttrain_runtime.strategies.shard_server import ShardServer
from disttrain_runtime.survivors import spread
from disttrain_runtime.task import Task

MEETING = 16
"""Steps between two meetings: so many are lost at most, and the optimizer's state travels once in so many steps."""


class ParameterServer(Replica):
    """One rank: a worker, and a server if it is one of the first k."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        if config.precision == "fp16":
            raise EntrypointError(
                "strategy.precision fp16 scales the loss until gradients overflow, which no parameter server sees as a whole: use bf16"
            )
        self.staleness = config.synchronization.max_staleness or 0
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self._server: ShardServer | None = None
        self._leg: Leg | None = None
        self._met = Kept()
        """The state at the last meeting."""
        self._ages: list[int] = []
        """Since the last report: how many updates were missing at the beginning of each step."""

    @override
    def rehearse(self, batch: Batch) -> None:
        self._keep_buffers()
        torch.autograd.backward(self.loss(batch))
        super().undo()

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        if self._leg is not None:
            self._leg.forsake()
        self._leg = None
        count = min(self.config.synchronization.servers or group.world_size, group.world_size)
        self.parts = Parts.of([p.numel() for p in self.trained], count)
        self._channel, self._pool = make_channel(), Pool()

    @override
    def equalise(self) -> None:
        super().equalise()
        self._become(Replica.state(self))

    @override
    def step(self, batch: Batch) -> Tensor:
        leg = self._leg = self._leg or self._begin_leg(batch.share.step)
        self.enter(Phase.SYNCHRONISING)
        self._ages.append(leg.pull())
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, batch.share.weight(self.group.world_size))
        self.enter(Phase.SYNCHRONISING)
        leg.push([p.grad if p.grad is not None else torch.zeros_like(p) for p in self.trained])
        if self.meets(batch.share.step + 1):
            self._meet(leg)
        return loss

    @override
    def meets(self, finished: int) -> bool:
        return finished % MEETING == 0 or finished == self.task.total_steps

    def _begin_leg(self, step: int) -> Leg:
        length = next(n for n in range(1, MEETING + 1) if self.meets(step + n))
        return Leg(
            self.group, self._channel, self.parts, self.trained, self._server, length, self.staleness, self._pool
        )

    def _meet(self, leg: Leg) -> None:
        """All updates, on all ranks; then the servers' share of the state."""
        leg.end()
        self._leg = None
        self.group.equalise(self.model.buffers())
        mine = self._server.state() if self._server is not None else {}
        parts = [spread(mine, self.group, giver) for giver in range(self.parts.count)]
        # What came from others has come into memory that is nobody else's: it need not be copied once more.
        copies = {
            place_of(t): t for giver, part in enumerate(parts) if giver != self.group.rank for t in tensors_in(part)
        }
        first, *others = parts
        slots = {index: slot for part in (first, *others) for index, slot in part["optimizer"]["state"].items()}
        optimizer = {**first["optimizer"], "state": dict(sorted(slots.items()))}
        self._met.keep({"model": dict(self.model.state_dict()), **first, "optimizer": optimizer}, copies)

    @override
    def undo(self) -> None:
        if self._met:
            self.load(self._met.give())

    @override
    def state(self) -> Mapping[str, Any]:
        return self._met.held()

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self._before = {}
        self.optimizer.zero_grad(set_to_none=True)
        self.model.load_state_dict(state["model"])
        self._become(state)

    def _become(self, state: Mapping[str, Any]) -> None:
        """The model is there; the servers' part, and what to go back to."""
        self._met.keep(state)
        self._server = None
        if self.group.rank < self.parts.count:
            own = [self.trained[i] for i in self.parts.indices[self.group.rank]]
            self._server = ShardServer(self.task, self.model, own, self.config.max_grad_norm)
            self._server.load(self._met.give())

    @override
    def metrics(self) -> Mapping[str, float]:
        """How many updates were missing in the parameters that a step began with, since the last report."""
        ages, self._ages = self._ages, []
        total, steps = self.group.total([sum(ages), len(ages)])
        (most,) = self.group.agree([max(ages, default=0)])
        return {"stalenessMean": total / steps if steps else 0.0, "stalenessMax": float(most)}
