"""A task whose model can be cut: between its layers, and inside them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from disttrain_runtime.task import Loss, Task
from support.gloo_tasks import At, Points, wait_at


class Block(nn.Module):
    """Half a transformer's layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.tanh(self.up(self.norm(x)))))


class Attention(nn.Module):
    """The other half. The number of heads follows from the width that it sees."""

    def __init__(self, width: int, head: int = 4) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(width), head
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(
            width, width, bias=False
        )  # its gradient would be 0, and Adam makes steps of what rounding leaves
        self.out = nn.Linear(width, width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        parts = [layer(normal).unflatten(-1, (-1, self.head)).transpose(1, 2) for layer in (self.query, self.key, self.value)]  # fmt: skip
        seen = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return x + self.out(seen.transpose(1, 2).flatten(-2))


class Spell(nn.Module):
    """A point becomes a sequence."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.places, self.layer = places, nn.Linear(12 // places, width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(-1, (self.places, -1)))


class Sum(nn.Module):
    """A sequence becomes two numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(1))


PLAN = {
    "*.up": "column", "*.down": "row",
    "*.query": "column", "*.key": "column", "*.value": "column", "*.out": "row",
}  # fmt: skip


def build_sequences(places: int = 6, **arguments: Any) -> Task:
    """A transformer on points that are read as sequences."""
    task = build(**arguments)
    width = 16
    halves = [half for _ in range(2) for half in (Attention(width), Block(width, 0.0))]
    return replace(task, model=nn.Sequential(Spell(places, width), *halves, Sum(width)), tensor_plan=PLAN)


class Stumbling(nn.Module):
    """A mistake in a layer."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "meta":
            raise ValueError("the layer stumbled")
        return x


def build(
    steps: int = 12,
    until: int | None = None,
    batch_size: int = 16,
    samples: int = 53,
    dropout: float = 0.0,
    blocks: int = 4,
    width: int = 16,
    planned: bool = False,
    stumbles: bool = False,
    doors: Path | None = None,
    rank: int = 1,
    at: list[int] = [],  # noqa: B006 - read only
) -> Task:
    """53 samples in batches of 16: the last one has 5, too few for equal microbatches. 12 steps are three epochs."""
    loss: Loss = nn.functional.cross_entropy
    if doors is not None:
        loss = At(loss, rank, at, partial(wait_at, doors))
    layers = [nn.Linear(12, width), *(Block(width, dropout) for _ in range(blocks)), nn.Linear(width, 2)]
    if stumbles:
        layers.append(Stumbling())
    return Task(
        model=nn.Sequential(*layers),
        train_data=Points(samples, 0.0),
        eval_data=Points(41, 0.0),
        loss=loss,
        metrics={"accuracy": lambda outputs, targets: outputs.argmax(1) == targets},
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        batch_size=batch_size,
        steps=until or steps,
        tensor_plan={"*.up": "column", "*.down": "row"} if planned else {},
    )
