"""Tasks in which one rank goes wrong at one step without a word: it hangs, leaves, or computes nonsense."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_runtime.task import Loss, Task
from support.gloo_tasks import At, Points


def hold_the_interpreter(step: int) -> None:
    """Wait in C for what never comes, without letting go of the lock: no Python thread runs any more."""
    c, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)


def loop_for_ever(step: int) -> None:
    while True:
        pass


def sleep_for_ever(step: int) -> None:
    time.sleep(1000)


def leave_at_once(step: int) -> None:
    """Without a word, and as if all were well."""
    os._exit(0)


def leave_politely(step: int) -> None:
    sys.exit(0)


class LoopsBackward(torch.autograd.Function):
    """Goes on for ever where the gradients are exchanged."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        loop_for_ever(0)


class HoldsBackward(torch.autograd.Function):
    """Waits for ever where the gradients are exchanged, and lets no other thread of its process run."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hold_the_interpreter(0)


class NoNumber(torch.autograd.Function):
    """The value is fine, its gradient is not."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * math.nan


class Spoiled:
    """Wraps a loss: on one rank, from one step on, it is not a number."""

    def __init__(self, loss: Loss, rank: int, step: int) -> None:
        self.loss, self.now = loss, False
        self.at = At(loss, rank, [step], self._spoil)

    def _spoil(self, step: int) -> None:
        self.now = True

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        loss = self.at(outputs, targets)
        return loss * math.nan if self.now and torch.is_grad_enabled() else loss


class Backward:
    """Wraps a loss: on one rank, in one step, its gradient is another."""

    def __init__(self, loss: Loss, rank: int, step: int, kind: type[torch.autograd.Function]) -> None:
        self.now, self.kind = False, kind
        self.at = At(loss, rank, [step], self._begin)

    def _begin(self, step: int) -> None:
        self.now = True

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        loss = self.at(outputs, targets)
        if not self.now:
            return loss
        self.now = False
        spoiled: Tensor = self.kind.apply(loss)
        return spoiled


def flip_a_bit(model: nn.Module, step: int) -> None:
    """Of one weight: the lowest of its mantissa."""
    with torch.no_grad():
        next(model.parameters()).view(-1)[:1].view(torch.int32).bitwise_xor_(1)


HAPPENS: dict[str, Callable[[int], None]] = {
    "holds": hold_the_interpreter,
    "loops": loop_for_ever,
    "sleeps": sleep_for_ever,
    "leaves": leave_at_once,
    "exits": leave_politely,
}

GRADIENTS: dict[str, type[torch.autograd.Function]] = {
    "backward": LoopsBackward,
    "deaf": HoldsBackward,
    "poison": NoNumber,
}


def build(
    fault: str = "", rank: int = 1, at: int = 30, steps: int = 2000, pause: float = 0.0, loaders: int = 0
) -> Task:
    """`fault`: see HAPPENS and GRADIENTS; or `nan`, `flip`."""
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 2))
    loss: Loss = nn.functional.cross_entropy
    if fault in HAPPENS:
        loss = At(loss, rank, [at], HAPPENS[fault])
    elif fault == "nan":
        loss = Spoiled(loss, rank, at)
    elif fault in GRADIENTS:
        loss = Backward(loss, rank, at, GRADIENTS[fault])
    elif fault == "flip":
        loss = At(loss, rank, [at], partial(flip_a_bit, model))
    if pause:
        loss = Paced(loss, pause)
    return Task(
        model=model,
        train_data=Points(60, 0.1),
        loss=loss,
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        batch_size=16,
        steps=steps,
        num_loader_workers=loaders,
    )


class Paced:
    """Wraps a loss: a step takes at least so long."""

    def __init__(self, loss: Loss, seconds: float) -> None:
        self.loss, self.seconds = loss, seconds

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        time.sleep(self.seconds)
        return self.loss(outputs, targets)
