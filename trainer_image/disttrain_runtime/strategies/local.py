"""Replicas that train alone and come together from time to time: what all methods that exchange parameters share.

Between two meetings a step is an ordinary step of one process on this rank's share of the global batch. A rank weighs as
much as the samples that it trained on, so shares of unequal size, and shares without a sample, count as they should:
a rank without samples makes its step with a gradient of zero.

State of the inner optimizer is either averaged and alike on all ranks (`has_own` False) or each rank's own. A rank that
takes the place of a dead one begins with an optimizer that has seen nothing then; the learning rate goes on as it was.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.checkpoint.manifest import Fingerprint
from disttrain_runtime.data import Batch
from disttrain_runtime.groups import Group
from disttrain_runtime.precision import KEY as SCALER
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.kept import Kept, Place
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.strategies.weighted_sum import Room, Samples, average_
from disttrain_runtime.task import Task

MOMENTS, GROUPS = "moments", "groups"


class Local(Replica):
    """A replica that trains alone, with a copy of what it was at the last meeting."""

    default_every: ClassVar[int]
    """Steps between exchanges if the job does not say."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self.every = config.synchronization.every_steps or self.default_every
        self.meet_every = self.every
        self.live: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]
        """What is exchanged. A frozen parameter is alike on all ranks anyway."""
        self.samples = Samples()
        """Samples since the last meeting."""
        self.finished = 0
        """Steps, as of the newest update."""
        self.room = Room()
        """For what goes round at a meeting."""
        self._kept, self._kept_own = Kept(), Kept()

    @abstractmethod
    def come_together(self) -> None:
        """At a meeting: exchange what makes `state` alike on all ranks. No rank may leave before all have come."""

    def exchange(self) -> None:
        """After every update: what goes on between meetings."""

    @override
    def meets(self, finished: int) -> bool:
        return finished % self.meet_every == 0 or finished == self.task.total_steps

    @override
    def rehearse(self, batch: Batch) -> None:
        self._keep_buffers()
        torch.autograd.backward(self.loss(batch))
        Replica.undo(self)

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self.room = Room()
        self.optimizer.zero_grad(set_to_none=True)

    @override
    def equalise(self) -> None:
        super().equalise()
        self._keep()

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, 1.0 if batch.share.own else 0.0)
        self.move(batch.share)
        self.finished = batch.share.step + 1
        self.count(batch.share)
        self.enter(Phase.SYNCHRONISING)
        self.exchange()
        if self.meets(self.finished):
            self._average_buffers()
            self.come_together()
            self.forget()
            self._keep(self.copies())
        return loss

    def move(self, share: Share) -> None:
        """Take the step that the gradients say."""
        self.update()

    def count(self, share: Share) -> None:
        """What this step adds to the rank's weight."""
        self.samples.add(share.own, share.total)

    def forget(self) -> None:
        """A meeting is over: what was counted and held since the last one is of no use any more."""
        self.samples = Samples()

    @override
    def undo(self) -> None:
        if not self._kept:
            super().undo()
            return
        self.forget()
        self.become(self._kept.give())
        self.become_own(self._kept_own.give())

    @override
    def state(self) -> Mapping[str, Any]:
        whole = dict(super().state())
        if self.has_own:
            whole.pop(SCALER, None)
            # Of the optimizer only the numbers: a schedule need not know how to find them again.
            whole[GROUPS] = whole.pop("optimizer")["param_groups"]
        return whole

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self.become(state)
        self.forget()
        self._keep()

    def become(self, state: Mapping[str, Any]) -> None:
        """What `state` said."""
        if self.has_own:
            own = {"state": self.optimizer.state_dict()["state"], "param_groups": state[GROUPS]}
            state = {**state, "optimizer": own}
        super().load(state)

    @override
    def own(self) -> Mapping[str, Any]:
        if not self.has_own:
            return {}
        return {MOMENTS: self.optimizer.state_dict()["state"], **self.precision.state()}

    @override
    def load_own(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """A group of another size: moments are estimates over the same data, and another rank's are as good as none lost."""
        self.become_own(parts[self.group.rank % len(parts)] if parts else {})
        self._keep()

    def become_own(self, own: Mapping[str, Any]) -> None:
        """What `own` said."""
        if not self.has_own:
            return
        self.optimizer.load_state_dict(
            {"state": own.get(MOMENTS, {}), "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.precision.load(own)

    @override
    def fingerprint(self) -> Fingerprint:
        """Where ranks have state of their own, a checkpoint of another method lacks it."""
        found = super().fingerprint()
        if not self.has_own:
            return found
        return replace(found, optimizer=f"{found.optimizer} in {self.config.synchronization.method}")

    @override
    def evaluation_model(self) -> nn.Module:
        """Alike on all ranks since they have met."""
        return self.model

    def share_scale(self) -> None:
        """A collective. Ranks scale their losses by themselves; where that has to be alike, rank 0's counts."""
        if scale := self.precision.state():
            self.precision.load(json.loads(self.group.broadcast(json.dumps(scale).encode())))

    def _average_buffers(self) -> None:
        """Batch statistics are averaged; what counts or indexes is rank 0's."""
        buffers = list(self.model.buffers())
        floating = [b for b in buffers if b.is_floating_point()]
        if floating:
            average_(floating, self.samples.weight)
        self.group.equalise(b for b in buffers if not b.is_floating_point())

    def copies(self) -> Mapping[Place, Tensor]:
        """Of the state behind this meeting: those that there are anyway. Whoever gives them never writes there again."""
        return {}

    def _keep(self, copies: Mapping[Place, Tensor] = MappingProxyType({})) -> None:
        self._kept.keep(self.state(), copies)
        self._kept_own.keep(self.own())
