"""A task: what a user writes. The runtime brings the loop, the sharding, the synchronisation and the checkpoints.

A task is made by a function whose typed arguments are the job's arguments:

    def build(lr: float = 0.1, epochs: int = 3) -> Task: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from disttrain_runtime.errors import TaskError

Loss = Callable[[Any, Any], Tensor]
"""(outputs, targets) → the *mean* over the samples of a batch, as in torch.nn.functional.cross_entropy."""

Metric = Callable[[Any, Any], Tensor]
"""(outputs, targets) → one value per sample (or token), not their mean: the runtime adds them up over all ranks."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that is particular to one training; checked when made."""

    model: nn.Module
    """On the CPU; the runtime moves it. All ranks build the same one: the generators are seeded alike."""
    train_data: Any
    """A map-style torch Dataset: `len(data)` and `data[i]`, which gives a pair (inputs, targets)."""
    loss: Loss
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    """Makes the optimizer, e.g. `partial(torch.optim.SGD, lr=0.1)`."""
    batch_size: int
    """Over all ranks together: more workers make a step faster, not different."""
    steps: int | None = None
    epochs: int | None = None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    """Stepped once per training step."""
    eval_data: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None
    """Samples → (inputs, targets). None: torch's default_collate."""
    num_loader_workers: int = 0
    """Processes per rank that fetch ahead. 0: fetch in the training process."""
    tensor_plan: Mapping[str, str] = field(default_factory=dict)
    """For tensor parallelism: names of linear layers, `*` for any part of one → `column` or `row`."""

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise TaskError(f"Task: {complaint}")

    @property
    def total_steps(self) -> int:
        """Where training ends."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * -(-len(self.train_data) // self.batch_size)


def call(model: nn.Module, inputs: Any) -> Any:
    """Apply a model to a batch's inputs: a mapping becomes keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _complaints(task: Task) -> Iterable[str]:
    if not isinstance(task.model, nn.Module):
        yield f"model must be a torch.nn.Module, not {_kind(task.model)}"
    elif not any(p.requires_grad for p in task.model.parameters()):
        yield "model has no parameter that requires a gradient, so there is nothing to train"
    yield from _data_complaints("train_data", task.train_data)
    if task.eval_data is not None:
        yield from _data_complaints("eval_data", task.eval_data)
    elif task.metrics:
        yield "metrics are given but eval_data is not: there is nothing to measure them on"
    yield from _number_complaints(task)
    for name, way in task.tensor_plan.items():
        if way not in ("column", "row"):
            yield f"tensor_plan[{name!r}] must be 'column' or 'row', got {way!r}"
    for name in ("loss", "optimizer", "schedule", "collate"):
        value = getattr(task, name)
        if not callable(value) and not (value is None and name in ("schedule", "collate")):
            yield f"{name} must be callable, not {_kind(value)}"
    if isinstance(task.optimizer, Optimizer):
        yield "optimizer must be a function that makes one from parameters (use functools.partial), not an optimizer"


def _data_complaints(name: str, data: Any) -> Iterable[str]:
    if isinstance(data, torch.utils.data.DataLoader):
        yield f"{name} must be the Dataset itself, not a DataLoader: the runtime decides who loads which sample"
    elif isinstance(data, torch.utils.data.IterableDataset) or not (
        isinstance(data, Sized) and hasattr(data, "__getitem__")
    ):
        yield f"{name} must be a map-style dataset with len() and [i] (a stream cannot be resumed exactly), not {_kind(data)}"
    elif len(data) == 0:
        yield f"{name} is empty"


def _number_complaints(task: Task) -> Iterable[str]:
    if (task.steps is None) == (task.epochs is None):
        yield f"give either steps or epochs; got steps={task.steps}, epochs={task.epochs}"
    for name, least in (("batch_size", 1), ("steps", 1), ("epochs", 1), ("num_loader_workers", 0)):
        value = getattr(task, name)
        if value is None and name in ("steps", "epochs"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield f"{name} must be a whole number of at least {least}, got {value!r}"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
