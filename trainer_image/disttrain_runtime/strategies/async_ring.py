"""Progress travels round a ring while training goes on; nobody waits unless something is too old.

Every H steps each rank puts what it has learnt since the last time, d_r, on its way: round the ring each worker adds its own
part to what comes from the one before it and passes it on, until all have the sum. When round k has come back:

    a = Σ_r w_r d_r          c ← c + a          x_r ← x_r + a - d_r

so each rank's own progress is replaced by everybody's, once, and what it has learnt meanwhile stays. A round that is
maxStaleness steps old is waited for: no rank trains further from the others than that. At any time
x_r = c + what is on its way + what is new; at a meeting everything has arrived, and all replicas are the common model, bit for bit.

Li et al. 2018, "Pipe-SGD" and Zhou et al. 2020, "DaSGD: delayed averaging" are the same idea for gradients and for local
SGD. The ring is the one of the collective library's all-reduce (gloo's own threads; NCCL's own stream), begun without
waiting; several rounds may be on their way. A round needs all ranks, so one that is slow for good sets the pace (decision 0017).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.groups import Group
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.common_model import CommonModel, copy
from disttrain_runtime.strategies.weighted_sum import Samples, Sum
from disttrain_runtime.task import Task

MAX_STALENESS = 4
"""Steps, if the job does not say: an all-reduce that takes as long as four steps costs no time then."""
MEET_EVERY = 50
"""Steps, if the job does not say: rarely enough that waiting for each other costs little."""


@dataclass(frozen=True, slots=True)
class Round:
    """Progress on its way."""

    begun: int
    """After so many steps."""
    progress: Sequence[Tensor]
    """This rank's own."""
    sum: Sum


class AsyncRing(CommonModel):
    """Delayed averaging of progress."""

    default_every = 1

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        chosen = config.synchronization
        self.max_staleness = chosen.max_staleness if chosen.max_staleness is not None else MAX_STALENESS
        self.meet_every = chosen.meet_every_steps or MEET_EVERY
        self.rounds: deque[Round] = deque()
        self._new = Samples()
        """Since the newest round."""
        self._ages: list[int] = []
        """Of the rounds that have come back since the last metrics."""
        self._waits = 0

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self.rounds.clear()  # the old group's, which will never come back

    @override
    def forget(self) -> None:
        super().forget()
        self.rounds.clear()
        self._new = Samples()

    @override
    def count(self, share: Share) -> None:
        super().count(share)
        self._new.add(share.own, share.total)

    @override
    @torch.no_grad()
    def exchange(self) -> None:
        if self.finished % self.every == 0:
            self._begin_round()
        while self.rounds and (self.rounds[0].sum.arrived() or self._too_old(self.rounds[0])):
            self._end_round()

    @override
    @torch.no_grad()
    def come_together(self) -> None:
        if self._new.total:
            self._begin_round()
        while self.rounds:
            self._end_round()
        copy(self.common, self.live)

    def _too_old(self, round_: Round) -> bool:
        return self.finished - round_.begun >= self.max_staleness

    def _begin_round(self) -> None:
        progress = [p - c for p, c in zip(self.live, self.common, strict=True)]
        for earlier in self.rounds:
            for mine, on_its_way in zip(progress, earlier.progress, strict=True):
                mine.sub_(on_its_way)
        self.rounds.append(Round(self.finished, progress, Sum(progress, self._new.weight)))
        self._new = Samples()

    def _end_round(self) -> None:
        round_ = self.rounds.popleft()
        self._waits += not round_.sum.arrived()
        self._ages.append(self.finished - round_.begun)
        for p, c, mine, all_ in zip(self.live, self.common, round_.progress, round_.sum.wait(), strict=True):
            c.add_(all_)
            p.add_(all_ - mine)

    @override
    def metrics(self) -> Mapping[str, float]:
        """How old progress was when it arrived, in steps, over all ranks; and which share of the rounds was waited for."""
        rounds, ages, waits = self.group.total([len(self._ages), sum(self._ages), self._waits])
        (oldest,) = self.group.agree([max(self._ages, default=0)])
        self._ages, self._waits = [], 0
        if not rounds:
            return {}
        return {"staleness": ages / rounds, "maxStaleness": float(oldest), "waits": waits / rounds}
