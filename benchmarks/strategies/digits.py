"""The digits example (examples/digits) with a number of steps instead of epochs."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from disttrain_runtime.task import Task

EXAMPLES = Path(__file__).parents[2] / "examples"


def build(steps: int, width: int = 32) -> Task:
    """Its network, data and optimizer; the learning rate falls to zero over these steps."""
    sys.path.insert(0, str(EXAMPLES))
    from digits import task as digits  # type: ignore[import-not-found, unused-ignore]

    task: Task = digits.build(width=width)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    return replace(task, schedule=schedule, steps=steps, epochs=None)
