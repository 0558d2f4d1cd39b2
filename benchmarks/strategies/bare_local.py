"""More bare loops in which each rank trains alone: DiLoCo piece by piece, and noise on what is exchanged."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.strategies.bare import Local
from disttrain_runtime.strategies.di_lo_co import fragments


class Fragments(Local):
    """The parameters in some runs, each with an outer SGD and a turn of its own."""

    @override
    def begin(self) -> None:
        super().begin()
        places = fragments([p.numel() for p in self.live], self.chosen["fragments"])
        self.parts = [[self.live[i] for i in run] for run in places]
        self.common = [nn.Parameter(nn.utils.parameters_to_vector(part).detach()) for part in self.parts]
        self.outer = [torch.optim.SGD([c], lr=0.7, momentum=0.9, nesterov=True) for c in self.common]

    @override
    def exchange(self) -> None:
        every, count = self.chosen["every_steps"], len(self.parts)
        for number, part in enumerate(self.parts):
            if self.steps % every != (number + 1) * every // count % every:
                continue
            common = self.common[number]
            delta = (common.detach() - nn.utils.parameters_to_vector(part).detach()) / self.world
            dist.all_reduce(delta)
            common.grad = delta
            self.outer[number].step()
            nn.utils.vector_to_parameters(common.detach(), part)


class NoisyAveraging(Local):
    """What each rank has changed is clipped and gets its share of the noise; moments begin anew."""

    @override
    def begin(self) -> None:
        super().begin()
        self.common = self.row

    @override
    def exchange(self) -> None:
        if self.steps % self.chosen["every_steps"]:
            return
        privacy = self.chosen["privacy"]
        told = self.clipped(self.common - self.row, privacy.max_grad_norm)
        told += torch.randn_like(told) * privacy.noise_multiplier * privacy.max_grad_norm / self.world**0.5
        dist.all_reduce(told)
        self.common = self.common - told / self.world
        self.put(self.common.clone())
        self.optimizer.state.clear()

    def clipped(self, change: Tensor, bound: float) -> Tensor:
        """Of this norm at most."""
        return change * min(1.0, bound / float(change.norm()))
