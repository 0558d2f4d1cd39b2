"""One rank of a bare loop: data, optimizer, steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from disttrain_runtime.task import Task


class Bare(ABC):
    """One rank of it, step by step."""

    def __init__(self, task: Task, chosen: dict[str, Any]) -> None:
        self.task, self.chosen = task, chosen
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.steps = 0
        self.batches = self._endless()
        self.begin()

    def begin(self) -> None:
        """Before the first step."""
        self.optimizer = self.task.optimizer(self.task.model.parameters())

    def step(self) -> None:
        """Train one."""
        inputs, targets = next(self.batches)
        self.steps += 1
        self.train(inputs, targets)

    @abstractmethod
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        """On this rank's part of a batch."""

    @property
    def layers(self) -> list[nn.Module]:
        """Of the model, which is an nn.Sequential."""
        return list(self.task.model.children())

    def shares(self) -> tuple[int, int]:
        """(which part of the data is this rank's, of how many)"""
        return self.rank, self.world

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        part, parts = self.shares()
        sampler: DistributedSampler[Any] = DistributedSampler(self.task.train_data, num_replicas=parts, rank=part)
        loader = DataLoader(self.task.train_data, self.task.batch_size // parts, sampler=sampler)
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            yield from loader
            epoch += 1
