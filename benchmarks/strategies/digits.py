"""The digits example (examples/digits) with a number of steps instead of epochs, and its images for a larger model that computes less."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from disttrain_runtime.task import Task

EXAMPLES = Path(__file__).parents[2] / "examples"
HIDDEN = 1024
"""1,126,410 parameters, 4.5 MB, of which most are one matrix; a share of 24 images takes milliseconds."""
RATE = 1e-3
"""AdamW's usual learning rate: the example's own is that of a smaller network."""


def build(steps: int) -> Task:
    """Its network, data and optimizer; the learning rate falls to zero over these steps."""
    sys.path.insert(0, str(EXAMPLES))
    from digits import task as digits  # type: ignore[import-not-found, unused-ignore]

    task: Task = digits.build()
    return replace(task, schedule=_schedule(steps), steps=steps, epochs=None)


def perceptron(steps: int) -> Task:
    """Its images, unshifted, for a network that is all large matrices: it learns them in some fifty steps."""
    task = build(steps)
    images = type(task.train_data)(task.train_data.images, task.train_data.labels, shift=False)
    return replace(
        task,
        train_data=images,
        model=nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, 10),
        ),
        optimizer=partial(torch.optim.AdamW, lr=RATE),
    )  # fmt: skip


def _schedule(steps: int) -> partial[torch.optim.lr_scheduler.CosineAnnealingLR]:
    return partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
