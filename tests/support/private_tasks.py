"""A task in which nothing can be learnt, only remembered."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from disttrain_runtime.task import Task

COUNT = 200


def coins(members: bool) -> tuple[Tensor, Tensor]:
    """Points with labels by the flip of a coin: those that are trained on, or as many others."""
    generator = torch.Generator().manual_seed(1 if members else 2)
    return torch.randn(COUNT, 30, generator=generator), torch.randint(0, 2, (COUNT,), generator=generator)


def model() -> nn.Module:
    """Room enough to learn them all by heart."""
    return nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 2))


def build(steps: int = 150) -> Task:
    return Task(
        model=model(),
        train_data=TensorDataset(*coins(members=True)),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        batch_size=40,
        steps=steps,
    )
