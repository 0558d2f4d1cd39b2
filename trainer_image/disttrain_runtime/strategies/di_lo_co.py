"""Many local steps, then one step of an outer optimizer with the mean of what they changed: DiLoCo.

    Δ = Σ_r w_r (c - x_r)      v ← μ v + Δ      c ← c - η (Δ + μ v)      x_r ← c

c is the common model, w_r the rank's share of the samples, η and μ the outer learning rate and momentum (Nesterov).
Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models". With η = 1 and μ = 0 it is
the averaging of models with inner optimizers that are never averaged.

With P fragments the model's parts are exchanged one after the other, each every H steps, at offsets of H / P: the same
bytes in small pieces (Douillard et al. 2025, "Streaming DiLoCo with overlapping communication"; here without the
overlap). All ranks meet at every one of these exchanges; the parts whose turn it is not are each replica's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.common_model import CommonModel, copy
from disttrain_runtime.strategies.weighted_sum import Samples, weighted_sum
from disttrain_runtime.task import Task

OUTER_LEARNING_RATE, OUTER_MOMENTUM = 0.7, 0.9
"""What the paper found best."""
OUTER = "outer"


class DiLoCo(CommonModel):
    """Inner optimizer: the task's. Outer optimizer: Nesterov."""

    default_every = 50
    """The paper's 500 is for runs of tens of thousands of steps."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        chosen = config.synchronization
        self.rate = chosen.outer_learning_rate if chosen.outer_learning_rate is not None else OUTER_LEARNING_RATE
        self.momentum = chosen.outer_momentum if chosen.outer_momentum is not None else OUTER_MOMENTUM
        self.fragments = fragments([p.numel() for p in self.live], chosen.fragments or 1)
        self.drifts = len(self.fragments) > 1
        self.velocity = [torch.zeros_like(c) for c in self.common]
        self.untold = [Samples() for _ in self.fragments]
        self._exchanged: set[int] = set()
        """Parameters of the newest exchange."""

    @override
    def meets(self, finished: int) -> bool:
        return bool(self.due(finished))

    def due(self, finished: int) -> list[int]:
        """Fragments that are exchanged after so many steps; in the end all are."""
        count = len(self.fragments)
        if finished == self.task.total_steps:
            return list(range(count))
        return [f for f in range(count) if finished % self.every == (f + 1) * self.every // count % self.every]

    @override
    def count(self, share: Share) -> None:
        super().count(share)
        for untold in self.untold:
            untold.add(share.own, share.total)

    @override
    @torch.no_grad()
    def come_together(self) -> None:
        due = self.due(self.finished)
        self._exchanged = {i for f in due for i in self.fragments[f]}
        for f in due:
            places = self.fragments[f]
            common, live = [self.common[i] for i in places], [self.live[i] for i in places]
            deltas = weighted_sum(common, self.untold[f].weight, self.room, minus=live)
            self.outer_step(places, deltas)
            self.untold[f] = Samples()

    def outer_step(self, places: Sequence[int], deltas: Sequence[Tensor]) -> None:
        """These parameters of the common model, by these outer gradients; the replica becomes the same."""
        for i, delta in zip(places, deltas, strict=True):
            velocity = self.velocity[i].mul_(self.momentum).add_(delta)
            self.common[i].sub_(self.rate * (delta + self.momentum * velocity))
            self.live[i].copy_(self.common[i])

    @override
    def catch_up(self, live: Sequence[Tensor], common: Sequence[Tensor]) -> None:
        for i, value in enumerate(live):
            if i not in self._exchanged:
                self.live[i].data.copy_(value)
        for f in self.due(self.finished):
            self.untold[f] = Samples()

    @override
    def state(self) -> Mapping[str, Any]:
        return {**super().state(), OUTER: {str(i): v for i, v in enumerate(self.velocity)}}

    @override
    def become(self, state: Mapping[str, Any]) -> None:
        super().become(state)
        copy([state[OUTER][str(i)] for i in range(len(self.velocity))], self.velocity)


def fragments(sizes: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Parameters of these sizes in so many runs, as equal as can be; none is empty. Pure."""
    total, count = sum(sizes), min(count, len(sizes))
    found: list[list[int]] = [[] for _ in range(count)]
    for i, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True)):
        middle = int((end - size / 2) * count / max(1, total))
        lowest, highest = max(0, count - (len(sizes) - i)), min(i, count - 1)
        found[min(max(middle, lowest), highest)].append(i)
    return [tuple(places) for places in found]
