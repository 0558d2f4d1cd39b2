"""A task whose model can be cut: between its layers, and inside them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

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


def build(
    steps: int = 12,
    until: int | None = None,
    batch_size: int = 16,
    samples: int = 53,
    dropout: float = 0.0,
    blocks: int = 4,
    width: int = 16,
    planned: bool = False,
    doors: Path | None = None,
    rank: int = 1,
    at: list[int] = [],  # noqa: B006 - read only
) -> Task:
    """53 samples in batches of 16: the last one has 5, too few for equal microbatches. 12 steps are three epochs."""
    loss: Loss = nn.functional.cross_entropy
    if doors is not None:
        loss = At(loss, rank, at, partial(wait_at, doors))
    layers = [nn.Linear(12, width), *(Block(width, dropout) for _ in range(blocks)), nn.Linear(width, 2)]
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
