"""What is trained to count bytes, time and memory: large matrices, so that messages stand out from frames and calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from benchmarks.strategies.formulas import Sizes
from benchmarks.strategies.rows import MATRICES, NARROW, PLACES, SEQUENCES, WIDTH, Row
from disttrain_runtime.task import Task

CLASSES = 10
BATCH = 192
SAMPLES = 10 * BATCH
SEQUENCE_SAMPLES = SAMPLES // PLACES


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


class Block(nn.Module):
    """The second half of a transformer's: the one in which a pair of matrices is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(NARROW)
        self.up, self.down = nn.Linear(NARROW, width), nn.Linear(width, NARROW)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.down(nn.functional.gelu(self.up(self.norm(inputs))))


class Mean(nn.Module):
    """Over the places of a sequence."""

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)


def sequences(steps: int, width: int = WIDTH) -> Task:
    """The same matrices for every place of a sequence, in blocks with a norm and a residual sum."""
    made = torch.Generator().manual_seed(0)
    return Task(
        model=nn.Sequential(Block(width), Block(width), Mean(), nn.Linear(NARROW, CLASSES)),
        train_data=TensorDataset(
            torch.randn(SEQUENCE_SAMPLES, PLACES, NARROW, generator=made),
            torch.randint(CLASSES, (SEQUENCE_SAMPLES,), generator=made),
        ),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        batch_size=BATCH // PLACES,
        steps=steps,
        tensor_plan={"[01].up": "column", "[01].down": "row"},
    )  # fmt: skip


MODELS: Mapping[str, Callable[[int, int], Task]] = {MATRICES: wide, SEQUENCES: sequences}


def sizes(row: Row) -> Sizes:
    """What its formula is about."""
    task = MODELS[row.model](1, row.width)
    return Sizes(tuple(tuple(p.shape) for p in task.model.parameters()), row.ranks, task.batch_size)
