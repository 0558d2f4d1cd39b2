"""Random pairs: after every step each rank gives half of its model to one other rank, and the news spreads.

Push-sum (Assran et al. 2019, "Stochastic Gradient Push for Distributed Deep Learning"):

    x_r ← ½ x_r + ½ x_i        i is the rank that sends to r

The ranks are paired anew in each exchange, by a pseudo-random permutation of the step; when their number is odd, the last
three form a circle. So each rank sends to exactly one and hears from exactly one: nothing is lost, nothing counts twice,
Σ x_r stays what it is, every x_r goes to the mean, and the weights that push-sum keeps for uneven numbers of
letters are 1 for ever, which is why there are none here.

A step counts as many times as its share of the samples: Σ x_r moves by W Σ_r w_r u_r, u_r being the optimizer's change.

Eventually consistent: at a meeting all take the mean. `replicaDistance` is what it was before, relative to the mean:
sqrt(Σ_r |x_r - mean|² / W) / |mean|.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.groups import Group
from disttrain_runtime.randomness import permutation
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.async_ring import MEET_EVERY
from disttrain_runtime.strategies.local import Local
from disttrain_runtime.strategies.weighted_sum import Room, laid_out, pack, unpack, weighted_sum
from disttrain_runtime.task import Task

_SEED = 0x60551
"""Pairs need to be alike on all ranks and otherwise unlike each other; that they are alike in all runs does no harm."""


class Gossip(Local):
    """Every rank with one other."""

    has_own = True
    default_every = 1

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self.meet_every = config.synchronization.meet_every_steps or MEET_EVERY
        self._distance = 0.0

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self._arriving = Room()

    @override
    @torch.no_grad()
    def move(self, share: Share) -> None:
        factor = share.weight(self.group.world_size)
        if factor == 1.0:
            self.update()
            return
        before = [p.detach().clone() for p in self.live]
        self.update()
        for p, old in zip(self.live, before, strict=True):
            p.copy_(old + factor * (p - old))

    @override
    @torch.no_grad()
    def exchange(self) -> None:
        rank, size = self.group.rank, self.group.world_size
        if self.finished % self.every or size == 1:
            return
        targets = sends(self.finished, size)
        buckets, others = pack(self.live, self.room), laid_out(self.live, self._arriving)
        for bucket, other in zip(buckets, others, strict=True):
            talks = [
                dist.P2POp(dist.isend, bucket.flat, targets[rank]),
                dist.P2POp(dist.irecv, other.flat, targets.index(rank)),
            ]
            for work in dist.batch_isend_irecv(talks):
                work.wait()
            bucket.flat.add_(other.flat).mul_(0.5)
        for p, value in zip(self.live, unpack(buckets, self.live), strict=True):
            p.copy_(value)

    @override
    @torch.no_grad()
    def come_together(self) -> None:
        mean = weighted_sum(list(self.live), 1 / self.group.world_size, self.room)
        self._distance = float(sum((p - m).double().square().sum() for p, m in zip(self.live, mean, strict=True)))
        for p, value in zip(self.live, mean, strict=True):
            p.copy_(value)

    @override
    def metrics(self) -> Mapping[str, float]:
        """How far replicas were from their mean when they last met."""
        (squares,) = self.group.total([self._distance])
        norm = float(sum(p.detach().double().square().sum() for p in self.live))
        return {"replicaDistance": (squares / self.group.world_size / norm) ** 0.5} if norm else {}


def sends(step: int, ranks: int) -> list[int]:
    """To whom each rank sends after a step: a permutation. Pure, so all ranks come to the same."""
    order = [int(r) for r in permutation(_SEED, step, ranks)]
    targets = list(range(ranks))
    paired = ranks - 3 if ranks % 2 and ranks > 1 else ranks - ranks % 2
    circles = [order[i : i + 2] for i in range(0, paired, 2)] + [order[paired:]]
    for circle in circles:
        for sender, receiver in zip(circle, circle[1:] + circle[:1], strict=True):
            targets[sender] = receiver
    return targets
