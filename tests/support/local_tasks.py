"""Small tasks, and what a group that exchanges parameters should make of them: the same, one replica after the other, in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from disttrain_runtime.generators import reseed
from disttrain_runtime.randomness import Stream
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.task import Loss, Task
from support.gloo_tasks import At, Points, wait_at

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
}


def build(
    steps: int = 22,
    samples: int = 50,
    batch_size: int = 16,
    optimizer: str = "adamw",
    norm: bool = False,
    doors: Path | None = None,
    rank: int = 1,
    at: list[int] = [],  # noqa: B006 - read only
) -> Task:
    """Two layers on fixed points. 50 samples in batches of 16: the last one of an epoch has 2."""
    loss: Loss = nn.functional.cross_entropy
    if doors is not None:
        loss = At(loss, rank, at, partial(wait_at, doors))
    return Task(
        model=nn.Sequential(
            nn.Linear(12, 24), *([nn.BatchNorm1d(24)] if norm else []), nn.Tanh(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 2)
        ),
        train_data=Points(samples, 0.0),
        eval_data=Points(41, 0.0),
        loss=loss,
        metrics={"accuracy": lambda outputs, targets: outputs.argmax(1) == targets},
        optimizer=OPTIMIZERS[optimizer],
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps),
        batch_size=batch_size,
        steps=steps,
    )  # fmt: skip


class Replicas:
    """What W ranks do, in one process and one after the other, for the formula of a method to be tried on."""

    def __init__(self, world: int, **arguments: object) -> None:
        reseed(0, Stream.BUILD, 0, 0)
        self.task = build(**arguments)  # type: ignore[arg-type]
        self.order = SampleOrder(seed=0, samples=len(self.task.train_data), batch_size=self.task.batch_size)
        self.world = world
        self.models = [copy.deepcopy(self.task.model) for _ in range(world)]
        self.optimizers = [self.task.optimizer(m.parameters()) for m in self.models]
        assert self.task.schedule is not None
        self.schedules = [self.task.schedule(o) for o in self.optimizers]
        self.counts = np.zeros((world, 2))
        """Samples of each rank, and of all, since somebody set them to zero."""

    def step(self, number: int) -> None:
        """Every rank on its share; one without samples has a gradient of zero."""
        for rank, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            share = self.order.share(number, rank, self.world)
            inputs, targets = zip(*(self.task.train_data[i] for i in share.indices), strict=True)
            optimizer.zero_grad()
            loss = self.task.loss(model(torch.stack(inputs)), torch.stack(targets))
            (loss * (1.0 if share.own else 0.0)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.schedules[rank].step()
            self.counts[rank] += share.own, share.total

    def parameters(self, rank: int) -> Tensor:
        """All of a rank's, as one vector."""
        return nn.utils.parameters_to_vector(self.models[rank].parameters()).detach().double()

    def put(self, rank: int, values: Tensor) -> None:
        """Its inverse."""
        nn.utils.vector_to_parameters(values.float(), self.models[rank].parameters())


def build_with_slow_ring(**arguments: Any) -> Task:
    """Rounds of the asynchronous ring never come back before they are waited for: what is random otherwise, is not."""
    from disttrain_runtime.strategies.weighted_sum import Sum

    Sum.arrived = lambda self: False  # type: ignore[method-assign]
    return build(**arguments)
