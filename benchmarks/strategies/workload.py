"""What is trained to count bytes, time and memory: large matrices, so that messages stand out from frames and calls."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.strategies.rows import NARROW, WIDTH
from disttrain_runtime.task import Task

CLASSES = 10
BATCH = 192
SAMPLES = 10 * BATCH


def wide(steps: int, width: int = WIDTH) -> Task:
    """1.1 million parameters, 4.3 MB in fp32, AdamW. The data are noise: nothing here is about what is learnt."""
    made = torch.Generator().manual_seed(0)
    return Task(
        model=nn.Sequential(
            nn.Linear(NARROW, width), nn.ReLU(),
            nn.Linear(width, NARROW), nn.ReLU(),
            nn.Linear(NARROW, width), nn.ReLU(),
            nn.Linear(width, NARROW), nn.ReLU(),
            nn.Linear(NARROW, CLASSES),
        ),
        train_data=TensorDataset(
            torch.randn(SAMPLES, NARROW, generator=made), torch.randint(CLASSES, (SAMPLES,), generator=made)
        ),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        batch_size=BATCH,
        steps=steps,
    )  # fmt: skip


def shapes(width: int = WIDTH) -> tuple[tuple[int, ...], ...]:
    """Of its parameters."""
    return tuple(tuple(p.shape) for p in wide(1, width).model.parameters())
