"""The bare loop that most others stand on: torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from benchmarks.strategies.bare_loop import Bare


class Ddp(Bare):
    """DistributedDataParallel, with a communication hook if there is one."""

    @override
    def begin(self) -> None:
        super().begin()
        self.model = DistributedDataParallel(self.task.model, gradient_as_bucket_view=True)
        if (hook := self.hook()) is not None:
            self.model.register_comm_hook(*hook)

    def hook(self) -> tuple[Any, Callable[..., Any]] | None:
        """(its state, itself)"""
        return None

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.model(inputs), targets))
        self.optimizer.step()
