"""What ranks do in stories about strategies; see gloo_group.together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.connections import Connections
from disttrain_runtime.data import training_batches
from disttrain_runtime.groups import Group, leave_group
from disttrain_runtime.rendezvous import alone
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.strategies.push_pull import Leg
from disttrain_runtime.strategies.weighted_sum import Sum
from disttrain_runtime.survivors import give, take
from disttrain_runtime.task import Task
from support.gloo_tasks import Points

Meet = Callable[[], tuple[Group, Connections]]
LOOK_SECONDS = 0.0005
"""Between two looks of who is late on purpose."""


def smooth(
    steps: int = 32, samples: int = 44, batch_size: int = 8, width: int = 16, learning_rate: float = 0.05
) -> Task:
    """Nothing random in it: what one rank trains, many must train."""
    torch.manual_seed(3)
    return Task(
        model=nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 2)),
        train_data=Points(samples, 0.0),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=learning_rate, momentum=0.9),
        schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=5, gamma=0.9),
        batch_size=batch_size,
        steps=steps,
    )


class Run:
    """One rank's strategy in a real group, step by step as the training loop would do it."""

    def __init__(self, meet: Meet, config: StrategyConfig, task: Task, seed: int = 0, per_worker: int = 1) -> None:
        leave_group()  # what it did before is over
        self.task, self.order = task, SampleOrder(seed=seed, samples=len(task.train_data), batch_size=task.batch_size)
        device = torch.device("cpu")
        self.strategy = make_strategy(config, task, device)
        first = next(training_batches(task, self.order, [self.order.share(0, 0, 1)], device))
        with alone():
            self.strategy.rehearse(first)
        group, self.connections = meet()
        self.group = replace(group, per_worker=per_worker)
        self.strategy.join(self.group)
        self.strategy.equalise()

    def train(self, steps: range) -> Run:
        """These steps of the task."""
        shares = (self.strategy.share(self.order, step) for step in steps)
        for batch in training_batches(self.task, self.order, shares, self.group.device):
            self.strategy.step(batch)
        return self

    def done(self) -> Run:
        """Nobody leaves before everybody is here."""
        self.group.barrier()
        return self

    @property
    def weights(self) -> Tensor:
        """All parameters in one row."""
        return torch.cat([p.detach().reshape(-1) for p in self.strategy.replicated()]).clone()


def each(meet: Meet, configs: Mapping[str, StrategyConfig], story: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """One story with every configuration, one after the other: starting processes takes longer than the stories."""
    return {name: story(meet, config, *args) for name, config in configs.items()}


def trained(meet: Meet, config: StrategyConfig, task: dict[str, Any], steps: int) -> list[float]:
    """The weights after so many steps."""
    return Run(meet, config, smooth(**task)).train(range(steps)).done().weights.tolist()


def bytes_per_step(meet: Meet, config: StrategyConfig, task: dict[str, Any], steps: int) -> float:
    """What this rank's kernel has sent, without what comes once."""
    run = Run(meet, config, smooth(**task)).train(range(steps))
    run.group.barrier()
    before = run.connections.sent()
    run.train(range(steps, 2 * steps))
    sent = run.connections.sent() - before
    run.done()
    return sent / steps


def again(meet: Meet, config: StrategyConfig, at: int, steps: int) -> tuple[Run, list[float]]:
    """A run that was trained to the end in quiet, and then anew up to step `at`; the weights of that end."""
    run = Run(meet, config, smooth())
    state, own = deepcopy(run.strategy.state()), deepcopy(run.strategy.own())
    expected = run.train(range(steps)).weights.tolist()
    run.strategy.load(state)
    run.strategy.load_own([own] * run.group.world_size)
    return run.train(range(at)), expected


def broken_off(meet: Meet, config: StrategyConfig, at: int, steps: int) -> tuple[list[float], list[float]]:
    """Weights of a quiet run, and of one whose step `at` was begun twice: its gradients went round, then it was undone."""
    quiet, expected = again(meet, config, at, steps)
    update, quiet.strategy.update = quiet.strategy.update, lambda: _break()  # type: ignore[attr-defined]
    with suppress(BrokenOff):
        quiet.train(range(at, at + 1))
    quiet.strategy.update = update  # type: ignore[attr-defined]
    quiet.strategy.undo()
    return expected, quiet.train(range(at, steps)).done().weights.tolist()


def one_behind(meet: Meet, config: StrategyConfig, at: int, steps: int) -> tuple[list[float], list[float]]:
    """Weights of a quiet run, and of one in which the last rank had not finished step `at` when all others had.

    It is given their state, and goes on with the residual of the step in which it took part.
    """
    run, expected = again(meet, config, at, steps)
    late = run.group.rank == run.group.world_size - 1
    update = run.strategy.update  # type: ignore[attr-defined]
    if late:
        run.strategy.update = lambda: _break()  # type: ignore[attr-defined]
    with suppress(BrokenOff):
        run.train(range(at, at + 1))
    run.strategy.update = update  # type: ignore[attr-defined]
    if late:
        run.strategy.load(take(run.group, 0))
    else:
        run.strategy.undo()
    if run.group.leads:
        give(run.strategy.state(), run.group, run.group.world_size - 1)
    return expected, run.train(range(at + 1, steps)).done().weights.tolist()


def stale(meet: Meet, config: StrategyConfig, steps: int) -> tuple[list[int], list[float], dict[str, float]]:
    """How old the parameters of each step were while the last rank is slow; the weights at the end; the metrics."""
    run = Run(meet, config, smooth())
    ages: list[int] = []
    for step in range(steps):
        if run.group.rank == run.group.world_size - 1:
            time.sleep(0.05)
        run.train(range(step, step + 1))
        ages.append(run.strategy._ages[-1])  # type: ignore[attr-defined]
    return ages, run.done().weights.tolist(), dict(run.strategy.metrics())


def overflowing(meet: Meet, config: StrategyConfig, quiet: int) -> tuple[bool, bool, bool]:
    """After some steps one overflows: whether the scale fell; whether weights, and residuals, are as they were."""
    run = Run(meet, config, smooth()).train(range(quiet))
    strategy = run.strategy
    weights, own = run.weights, deepcopy(strategy.own())
    strategy.precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)  # type: ignore[attr-defined]
    run.train(range(quiet, quiet + 1)).done()
    left = strategy.own()["residual"]
    same = all(torch.equal(value, left[name]) for name, value in own["residual"].items())
    return strategy.precision.scale < 2.0**60, torch.equal(run.weights, weights), same  # type: ignore[attr-defined]


def accuracies(
    meet: Meet, config: StrategyConfig, seeds: Sequence[int], epochs: int, late: bool = False
) -> tuple[list[float], Mapping[str, float]]:
    """On digits that training has not seen, by seed; and what the strategy says of the last seed's run.

    `late`: whatever may be late is as late as it may be.
    """
    if late:
        be_late()
    found = []
    for seed in seeds:
        task, images, labels = digits_task(seed, epochs)
        run = Run(meet, config, task, seed).train(range(task.total_steps)).done()
        model = run.strategy.evaluation_model()
        found.append(float((model(images).argmax(1) == labels).double().mean()))
    return found, dict(run.strategy.metrics())


def be_late() -> None:
    """In this process: rounds of the asynchronous ring never come back before they are waited for, and parameters from
    servers are taken in only when the rank cannot go on without them. What is random otherwise, is not."""
    arrived = Leg._arrived

    def arrive_late(leg: Leg, number: int, row: Tensor) -> None:
        while leg._pushed - leg._updates[number] <= leg._staleness and leg._pushed < leg._length:
            time.sleep(LOOK_SECONDS)
        arrived(leg, number, row)

    Sum.arrived = lambda self: False  # type: ignore[method-assign]
    Leg._arrived = arrive_late  # type: ignore[method-assign]


def digits_task(seed: int, epochs: int) -> tuple[Task, Tensor, Tensor]:
    """Written digits, 8 × 8 (from scikit-learn): a task of 25 steps an epoch, and the images and labels that are kept apart.

    The learning rate suits parameters that are 4 updates old: at twice of it they swing to and fro.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    torch.manual_seed(seed)
    task = Task(
        model=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        train_data=TensorDataset(inputs[:1200], targets[:1200]),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        batch_size=48,
        epochs=epochs,
    )
    return task, inputs[1200:], targets[1200:]


class BrokenOff(Exception):
    """The group is gone."""


def _break() -> bool:
    raise BrokenOff
