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

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.checkpoint.structure import take_apart
from disttrain_runtime.errors import TaskError
from disttrain_runtime.strategies.local import Local
from disttrain_runtime.strategies.weighted_sum import average_
from disttrain_runtime.task import Task


class ModelAveraging(Local):
    """Average everything."""

    default_every = 8
    """Lin et al. see no loss of accuracy up to 8 or 16 local steps."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self.synchronous_steps = config.synchronization.synchronous_steps or 0

    @override
    def meets(self, finished: int) -> bool:
        return finished <= self.synchronous_steps or super().meets(finished)

    @override
    def come_together(self) -> None:
        moments, counts = self._moments()
        average_([*self.live, *moments], self.samples.weight)
        if counts:
            largest = torch.stack([c.detach().double().cpu() for c in counts])
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            for count, value in zip(counts, largest, strict=True):
                count.copy_(value)
        self.share_scale()

    def _moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """The optimizer's floating tensors, alike in number and shape on all ranks, and its single numbers, which count steps."""
        state = {"optimizer": self.optimizer.state_dict()["state"]}
        _, groups = take_apart(state)
        tensors = groups.get("optimizer", {})
        shapes = repr([(name, tuple(t.shape)) for name, t in tensors.items()]).encode()
        digest = zlib.crc32(shapes)
        largest, negative_smallest = self.group.agree([digest, -digest])
        if largest != -negative_smallest:
            raise TaskError(
                "Task: the optimizer holds state for other parameters on this rank than on another: some parameter had a gradient "
                "on some ranks only, so there is no average; train with synchronization.method diLoCo, or let all parameters take part in every loss"
            )
        floating = [t for t in tensors.values() if t.is_floating_point()]
        return [t for t in floating if t.dim()], [t for t in floating if not t.dim()]
