"""How long the ranks of a pipeline idle, with layers that only wait: cores do not matter, the order of microbatches does.

Each layer takes `PASS` seconds forward, `PASS` backward for its inputs, `PASS` backward for its weights: what the formula of each schedule
assumes. A rank is busy while its layers wait.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from benchmarks.strategies import formulas
from benchmarks.strategies.crew import together
from benchmarks.strategies.loop import Enough, Loop
from disttrain_contract.strategy import Parallelism, StrategyConfig
from disttrain_runtime.task import Task

PASS = 0.150
"""Seconds: long against what the schedule itself computes and sends."""
STAGES, MICROBATCHES, STEPS = 4, 8, 2
CHUNKS = {"gpipe": 1, "1f1b": 1, "interleaved1f1b": 2, "zeroBubble": 2}
"""Runs of layers on a rank."""
_busy = 0.0


def _work() -> None:
    global _busy
    began = time.perf_counter()
    time.sleep(PASS)
    _busy += time.perf_counter() - began


class _There(torch.autograd.Function):
    """Forward, and backward for the inputs."""

    @staticmethod
    @override
    def forward(ctx: Any, value: Tensor) -> Tensor:
        _work()
        return value.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        _work()
        return gradients[0]


class _Weight(torch.autograd.Function):
    """Backward for the weights."""

    @staticmethod
    @override
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        _work()
        return gradients[0]


class Waits(nn.Module):
    """A layer that takes time and next to nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = _There.apply(inputs + _Weight.apply(self.weight))
        return found


def waiting(layers: int) -> Task:
    """So many of them."""
    return Task(
        model=nn.Sequential(*(Waits() for _ in range(layers))),
        train_data=TensorDataset(torch.zeros(64, 4), torch.zeros(64, dtype=torch.int64)),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        batch_size=2 * MICROBATCHES,
        steps=10**6,
    )


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every schedule beside its formula."""
    found = []
    for schedule, chunks in CHUNKS.items():
        told = together(STAGES, story, schedule, 1 if quick else STEPS)
        of = formulas.bubble_v if schedule == "zeroBubble" else partial(formulas.bubble, chunks=chunks)
        formula = of(STAGES, MICROBATCHES)
        found.append({
            "schedule": schedule, "stages": STAGES, "microbatches": MICROBATCHES, "formula": formula,
            "measured": statistics.fmean(told),
        })  # fmt: skip
    return found


def story(schedule: str, steps: int) -> float:
    """The share of a step's time in which this rank idled: a median over steps. The first step does not count."""
    layers = CHUNKS[schedule] * STAGES
    split = tuple(str(number) for number in range(1, layers))
    cut = Parallelism(stages=STAGES, schedule=schedule, microbatches=MICROBATCHES, split=split)
    loop = Loop(partial(waiting, layers), StrategyConfig(parallelism=cut))
    loop.join()
    idle: list[float] = []
    begun = 0.0

    def look(step: int) -> None:
        nonlocal begun
        global _busy
        dist.barrier()
        if step > 1:
            idle.append(1 - _busy / (time.perf_counter() - begun))
        if step > steps:
            raise Enough
        begun, _busy = time.perf_counter(), 0.0

    loop.run(look)
    return statistics.median(idle)
