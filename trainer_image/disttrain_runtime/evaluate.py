"""Evaluation over all ranks, exact: every sample counts once, sums and counts are added up, and only then divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_contract.stall import Phase
from disttrain_runtime.data import Batch, evaluation_batches
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.sampler import Share, evaluation_shares
from disttrain_runtime.strategies.strategy import Seat
from disttrain_runtime.task import Task, call

LOSS = "evalLoss"
"""The metric that every task has."""


def check_metric(task: Task, metric: str | None) -> None:
    """Raises TaskError when a job asks for a metric that its task does not have."""
    if metric is None:
        return
    if task.eval_data is None:
        raise TaskError(
            f"Task: evaluation.metric is {metric!r}, but eval_data is missing: there is nothing to measure it on"
        )
    if metric not in (names := [LOSS, *task.metrics]):
        raise TaskError(f"Task: evaluation.metric is {metric!r}, but the task has {', '.join(names)}")


def evaluate(
    task: Task, model: nn.Module, group: Group, seat: Seat, enter: Callable[[Phase], None]
) -> dict[str, float]:
    """The task's metrics and its mean loss on the evaluation data. A collective. `enter` hears of every batch."""
    names = [LOSS, *task.metrics]
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=group.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in _batches(task, group, seat):
                enter(Phase.EVALUATING)
                outputs = call(model, batch.inputs)
                if seat.speaks and batch.share.own:
                    sums += _measure(task, outputs, batch).to(sums.device)
    finally:
        model.train(was_training)
    enter(Phase.REPORTING)
    totals = group.total(sums.flatten())
    return {name: totals[2 * i] / totals[2 * i + 1] for i, name in enumerate(names) if totals[2 * i + 1]}


def _batches(task: Task, group: Group, seat: Seat) -> Iterator[Batch]:
    """As many on every rank: a forward pass may be a collective. What is missing at the end is a stand-in."""
    size = max(1, task.batch_size // seat.replicas)
    shares = list(evaluation_shares(len(task.eval_data), size, seat.replica, seat.replicas))
    longest = ceil(len(task.eval_data) / seat.replicas)
    most = ceil(longest / size)
    shares += [Share(number, seat.replica, (0,), 0, 1) for number in range(len(shares), most)]
    return evaluation_batches(task, shares, group.device)


def _measure(task: Task, outputs: Any, batch: Batch) -> Tensor:
    """One row (sum, count) per metric; the mean loss counts once for each sample."""
    loss = task.loss(outputs, batch.targets).double() * batch.share.own
    rows = [torch.stack([loss, torch.tensor(batch.share.own, dtype=torch.float64, device=loss.device)])]
    for name, metric in task.metrics.items():
        values = metric(outputs, batch.targets)
        if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != batch.share.own:
            raise TaskError(
                f"Task: metric {name!r} must give one value per sample ({batch.share.own} here), not their mean"
            )
        rows.append(
            torch.stack(
                [values.double().sum(), torch.tensor(values.numel(), dtype=torch.float64, device=values.device)]
            )
        )
    return torch.stack(rows)
