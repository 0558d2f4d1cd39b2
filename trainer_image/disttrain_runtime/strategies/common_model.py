"""Replicas beside a common model, of which every rank has a copy: what is exchanged changes the common one.

The common model is what is saved, evaluated and given to a replacement. A replica may be elsewhere at a meeting
(`drifts`): then it is the rank's own, and is saved as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.strategies.local import Local
from disttrain_runtime.strategies.weighted_sum import Samples
from disttrain_runtime.task import Task

STEPS, REPLICA, UNTOLD = "steps", "replica", "untold"


class CommonModel(Local):
    """`live` trains, `common` is what all agree on."""

    has_own = True
    drifts = False
    """Whether a replica may differ from the common model at a meeting. Alike on all ranks."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self.common = [p.detach().clone() for p in self.live]
        self.untold = [Samples()]
        """Of each part that is exchanged by itself: samples whose effect the common model does not know yet."""

    @override
    @torch.no_grad()
    def equalise(self) -> None:
        self.group.equalise(t for t in self.model.state_dict().values() if isinstance(t, Tensor))
        copy(self.live, self.common)
        self._keep()

    @override
    def state(self) -> Mapping[str, Any]:
        places = {id(p): i for i, p in enumerate(self.live)}
        whole = self.model.state_dict(keep_vars=True)
        model = {name: self.common[places[id(t)]] if id(t) in places else t for name, t in whole.items()}
        return {**super().state(), "model": model, STEPS: self.finished}

    @override
    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """A rank that made the same steps and missed only the end of the exchange keeps its own progress; another has none."""
        if not (self.drifts and self._kept and state[STEPS] == self.finished):
            self.untold = [Samples() for _ in self.untold]
            super().load(state)
            return
        live, common = [p.detach().clone() for p in self.live], [c.clone() for c in self.common]
        self.become(state)
        self.catch_up(live, common)
        self.forget()
        self._keep()

    def catch_up(self, live: Sequence[Tensor], common: Sequence[Tensor]) -> None:
        """Be what the exchange would have made of this rank: the common model is, and these are the values of before."""

    @override
    @torch.no_grad()
    def become(self, state: Mapping[str, Any]) -> None:
        super().become(state)
        copy(self.live, self.common)
        self.finished = state[STEPS]

    @override
    def own(self) -> Mapping[str, Any]:
        if not self.drifts:
            return super().own()
        replica = {str(i): p for i, p in enumerate(self.live)}
        return {**super().own(), REPLICA: replica, UNTOLD: [[s.own, s.total] for s in self.untold]}

    @override
    def load_own(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """In a group of another size all replicas begin at the common model: somebody else's progress would count twice."""
        if self.drifts and parts and len(parts) != self.group.world_size:
            parts = [{k: v for k, v in part.items() if k not in (REPLICA, UNTOLD)} for part in parts]
        super().load_own(parts)

    @override
    @torch.no_grad()
    def become_own(self, own: Mapping[str, Any]) -> None:
        super().become_own(own)
        if REPLICA in own:
            copy([own[REPLICA][str(i)] for i in range(len(self.live))], self.live)
            self.untold = [Samples(*counts) for counts in own[UNTOLD]]
        else:
            copy(self.common, self.live)
            self.untold = [Samples() for _ in self.untold]

    @override
    def replicated(self) -> Sequence[Tensor]:
        return self.common

    @override
    def evaluation_model(self) -> nn.Module:
        if not self.drifts:
            return self.model
        places = {id(p): i for i, p in enumerate(self.live)}
        named = self.model.named_parameters(remove_duplicate=False)
        return Seen(self.model, {name: self.common[places[id(p)]] for name, p in named if id(p) in places})


class Seen(nn.Module):
    """A model with other values for its parameters."""

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.inner, self._values = model, dict(values)

    @override
    def forward(self, *args: Any, **named: Any) -> Any:
        return torch.func.functional_call(self.inner, self._values, args, named)


@torch.no_grad()
def copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Values, one by one."""
    for value, tensor in zip(source, target, strict=True):
        tensor.copy_(value)
