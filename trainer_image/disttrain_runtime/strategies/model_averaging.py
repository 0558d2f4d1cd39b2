"""Each rank trains alone; every H steps the replicas become their average.

    x ← Σ_r w_r x_r        w_r = samples of rank r since the last meeting / samples of all

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data"; Stich 2019, "Local SGD
Converges Fast and Communicates Little"; with the first steps synchronous it is post-local SGD (Lin et al. 2020, "Don't
Use Large Mini-Batches, Use Local SGD").

State of the optimizer is averaged as well (Yu, Jin and Yang 2019, "On the Linear Speedup Analysis of Communication
Efficient Momentum SGD"): everything is alike at a meeting then, so a replacement lacks nothing, a recovery costs no bit,
and with H = 1 momentum SGD is what all-reduce is. The price is bytes: AdamW has two moments, so three times the model
travels, every H steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.checkpoint.structure import take_apart
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.kept import Place, place_of
from disttrain_runtime.strategies.local import Local
from disttrain_runtime.strategies.weighted_sum import Room, average_
from disttrain_runtime.task import Task


class ModelAveraging(Local):
    """Average everything."""

    default_every = 8
    """Lin et al. see no loss of accuracy up to 8 or 16 local steps."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self.synchronous_steps = config.synchronization.synchronous_steps or 0
        self._forget_copies()

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self._forget_copies()

    def _forget_copies(self) -> None:
        self._resting = Room()
        """What the copy of the last meeting lies in."""
        self._means: dict[Place, Tensor] = {}
        self._agreed = _Layout()
        """Of the optimizer's state, at the last meeting of this group."""

    @override
    def meets(self, finished: int) -> bool:
        return finished <= self.synchronous_steps or super().meets(finished)

    @override
    def come_together(self) -> None:
        moments, counts = self._moments()
        tensors = [*self.live, *moments]
        means = average_(tensors, self.samples.weight, self.room)
        self._means = {place_of(t): mean for t, mean in zip(tensors, means, strict=True) if t.numel()}
        self.share_scale()

    @override
    def copies(self) -> Mapping[Place, Tensor]:
        """The averages themselves. The next ones are made where the copy before this one lies, which nobody needs any more."""
        self.room, self._resting = self._resting, self.room
        return self._means

    def _moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """The optimizer's floating tensors, alike in number and shape on all ranks, and its single numbers, which count
        steps and become the largest of all ranks'.

        One exchange, as long as nothing changes: its length is what all ranks agreed on before.
        """
        _, groups = take_apart({"optimizer": self.optimizer.state_dict()["state"]})
        tensors = groups.get("optimizer", {})
        floating = [t for t in tensors.values() if t.is_floating_point()]
        counts = [t for t in floating if not t.dim()]
        shapes = repr([(name, tuple(t.shape)) for name, t in tensors.items()]).encode()
        layout = _Layout(zlib.crc32(shapes), len(counts))
        if self._largest(layout.digest, counts, self._agreed.counts) != self._agreed.digest:
            self._largest(layout.digest, counts, layout.counts)
            self._agreed = layout
        return [t for t in floating if t.dim()], counts

    def _largest(self, digest: int, counts: Sequence[Tensor], known: int) -> float:
        """Agree on so many counts. Gives the digest that all have; raises TaskError if they differ."""
        fits = len(counts) == known
        told = torch.stack([c.detach().double() for c in counts]).tolist() if fits and counts else [0.0] * known
        values = torch.tensor([digest, -digest, *told], dtype=torch.float64)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        largest, negative_smallest, *found = values.tolist()
        if largest != -negative_smallest:
            raise TaskError(
                "Task: the optimizer holds state for other parameters on this rank than on another: some parameter had a gradient "
                "on some ranks only, so there is no average; train with synchronization.method diLoCo, or let all parameters take part in every loss"
            )
        if fits:
            for count, value in zip(counts, found, strict=True):
                count.fill_(value)
        return float(largest)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the optimizer keeps. The first one is nobody's: no digest is negative."""

    digest: int = -1
    counts: int = 0
