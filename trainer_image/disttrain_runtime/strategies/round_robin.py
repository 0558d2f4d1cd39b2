"""Workers synchronise in turns: every H steps one of them brings its progress into the common model.

After step s = k H it is the turn of rank r = (k - 1) mod W:

    u = w_r (x_r - c)          w_r = samples of rank r since its last turn / samples of all ranks in that time
    c ← c + u                  x_i ← x_i + u on every other rank i          x_r ← c

At any time x_i = c + what rank i has learnt since its last turn. After the last step all of them take their turn at once.
A fixed order of updates that are W H steps old at most: delayed gradient descent in the round-robin order of Langford, Smola
and Zinkevich 2009, "Slow Learners are Fast", with the progress of several steps in place of one gradient.

u goes to all ranks, because each of them keeps the common model: a worker that dies takes only its own untold steps along,
and its turn passes to whoever has its place in the next group, or to the next in order when the group is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.common_model import CommonModel, copy
from disttrain_runtime.strategies.kept import Place, place_of
from disttrain_runtime.strategies.weighted_sum import Samples, laid_out, pack, unpack, weighted_sum
from disttrain_runtime.task import Task


class RoundRobin(CommonModel):
    """One rank at a time."""

    drifts = True
    default_every = 4
    """With four workers each one's progress is told every 16 steps."""
    _mine = False
    """The newest turn was this rank's."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self._spare = [torch.empty_like(c) for c in self.common]
        """Memory of the common model before this one: the next one is made there."""

    @override
    def count(self, share: Share) -> None:
        super().count(share)
        self.untold[0].add(share.own, share.total)

    @property
    def everybody(self) -> bool:
        """The last step: all take their turn."""
        return self.finished == self.task.total_steps

    def turn(self, finished: int) -> int:
        """Whose it is."""
        return (finished // self.every - 1) % self.group.world_size

    @override
    @torch.no_grad()
    def come_together(self) -> None:
        if self.everybody:
            self._mine = True
            told = weighted_sum(self.live, self.untold[0].weight, self.room, minus=self.common)
        else:
            self._mine = self.turn(self.finished) == self.group.rank
            told = self._tell()
        for p, c, new, u in zip(self.live, self.common, self._spare, told, strict=True):
            torch.add(c, u, out=new)
            p.add_(u)
        self.common, self._spare = self._spare, self.common
        if self._mine:
            copy(self.common, self.live)
            self.untold = [Samples()]

    def _tell(self) -> list[Tensor]:
        """One rank's progress times its weight, on all ranks."""
        buckets = pack(self.live, self.room, minus=self.common) if self._mine else laid_out(self.live, self.room)
        if self._mine:
            for bucket in buckets:
                bucket.flat.mul_(self.untold[0].weight)
        self.group.barrier()  # nobody has the new model before everybody has made the step
        for bucket in buckets:
            dist.broadcast(bucket.flat, src=self.turn(self.finished))
        return unpack(buckets, self.live)

    @override
    def copies(self) -> Mapping[Place, Tensor]:
        """The common model stays as it is until a turn makes another one, elsewhere."""
        return {place_of(c): c for c in self.common}

    @override
    def catch_up(self, live: Sequence[Tensor], common: Sequence[Tensor]) -> None:
        if self._mine:
            self.untold = [Samples()]
            return
        for p, own, new, old in zip(self.live, live, self.common, common, strict=True):
            p.data.copy_(own + (new - old))
