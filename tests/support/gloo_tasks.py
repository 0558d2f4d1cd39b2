"""Small tasks for stories about real groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from disttrain_runtime.task import Loss, Task


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Fixed points with a little noise that is drawn anew in every step."""

    def __init__(self, count: int, noise: float) -> None:
        generator = torch.Generator().manual_seed(7)
        self.points = torch.randn(count, 12, generator=generator)
        self.labels = (self.points.sum(dim=1) > 0).long()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index] + self.noise * torch.randn(12), self.labels[index]


class At:
    """Wraps a loss: before some steps of a fresh run, on one rank, something happens. The first call is the rehearsal."""

    def __init__(self, loss: Loss, rank: int, steps: list[int], happen: Callable[[int], None]) -> None:
        self.loss, self.happen, self.next = loss, happen, -1
        self.steps, self.rank = steps, str(rank)

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        if self.next in self.steps and os.environ.get("RANK") == self.rank:  # a spare is told its rank later
            self.happen(self.next)
        self.next += torch.is_grad_enabled()
        return self.loss(outputs, targets)


def wait_at(doors: Path, step: int) -> None:
    """Stand before the door until the story opens it (see Door)."""
    with (doors / f"door-{step}").open() as file:
        file.read()


def stumble(step: int) -> None:
    raise ValueError("the loss stumbled")


def build(
    steps: int = 30,
    batch_size: int = 16,
    samples: int = 60,
    noise: float = 0.1,
    dropout: float = 0.2,
    norm: bool = True,
    width: int = 48,
    loaders: int = 0,
    doors: Path | None = None,
    stumbles: bool = False,
    rank: int = 1,
    at: list[int] = [],  # noqa: B006 - read only
) -> Task:
    """A classifier with everything that could spoil exactness: dropout, batch statistics, momentum, a schedule, noise."""
    layers = [
        nn.Linear(12, width),
        *([nn.BatchNorm1d(width)] if norm else []),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 2),
    ]
    loss: Loss = nn.functional.cross_entropy
    if doors is not None:
        loss = At(loss, rank, at, partial(wait_at, doors))
    if stumbles:
        loss = At(loss, rank, at, stumble)
    return Task(
        model=nn.Sequential(*layers),
        train_data=Points(samples, noise),
        eval_data=Points(41, 0.0),
        loss=loss,
        metrics={"accuracy": lambda outputs, targets: outputs.argmax(1) == targets},
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        batch_size=batch_size,
        steps=steps,
        num_loader_workers=loaders,
    )


class Drift(nn.Module):
    """Its one weight goes up in every step, and its loss with it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.expand(len(inputs))


def drift_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return -outputs.mean() if torch.is_grad_enabled() else outputs.mean()


def build_worse(steps: int = 24) -> Task:
    """Every evaluation is worse than the one before."""
    return Task(
        model=Drift(),
        train_data=Points(20, 0.0),
        eval_data=Points(11, 0.0),
        loss=drift_loss,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        batch_size=8,
        steps=steps,
    )


class Ledger(nn.Module):
    """Its weights count how often each sample was trained on."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(samples))

    def forward(self, indices: Tensor) -> Tensor:
        return self.seen[indices]


class Indices(Dataset[tuple[int, int]]):
    """Sample i is the number i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, 0


def minus_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return -outputs.mean()


def build_ledger(
    epochs: int = 3,
    samples: int = 44,
    batch_size: int = 8,
    doors: Path | None = None,
    at: list[int] = [],  # noqa: B006 - read only
) -> Task:
    """Plain SGD on minus the mean: a step adds lr / (size of the global batch) to each sample in it, exactly once."""
    loss: Loss = minus_mean
    if doors is not None:
        loss = At(loss, 1, at, partial(wait_at, doors))
    return Task(
        model=Ledger(samples),
        train_data=Indices(samples),
        loss=loss,
        optimizer=partial(torch.optim.SGD, lr=1.0),
        batch_size=batch_size,
        epochs=epochs,
    )


def build_elsewhere() -> Any:
    """Not a task."""
    return {"model": None}


def build_without_data() -> Task:
    """The user's own mistake while building."""
    raise FileNotFoundError("/data/train.bin is not there")
