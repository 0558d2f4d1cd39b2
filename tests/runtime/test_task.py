"""A task is checked when it is made."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from disttrain_runtime.errors import TaskError
from disttrain_runtime.task import Task, call

pytestmark = pytest.mark.torch

DATA = TensorDataset(torch.zeros(10, 2), torch.zeros(10))
SGD = partial(torch.optim.SGD, lr=0.1)


class Stream(IterableDataset[Any]):
    """Endless."""

    def __iter__(self) -> Any:
        return iter(())


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {
        "model": nn.Linear(2, 1), "train_data": DATA, "loss": nn.functional.mse_loss, "optimizer": SGD, "batch_size": 4, "epochs": 3,
    }  # fmt: skip
    return Task(**(given | changes))


def test_epochs_become_steps_and_no_sample_is_dropped() -> None:
    assert task().total_steps == 9, "10 samples in batches of 4 are 3 steps an epoch"
    assert task(epochs=None, steps=5).total_steps == 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": lambda x: x}, "model must be a torch.nn.Module"),
        ({"model": nn.ReLU()}, "nothing to train"),
        ({"train_data": DataLoader(DATA)}, "not a DataLoader"),
        ({"train_data": Stream()}, "a stream cannot be resumed"),
        ({"train_data": []}, "train_data is empty"),
        ({"eval_data": 5}, "eval_data must be a map-style dataset"),
        ({"metrics": {"accuracy": torch.eq}}, "eval_data is not"),
        ({"steps": 5}, "give either steps or epochs"),
        ({"epochs": None}, "give either steps or epochs"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"num_loader_workers": -1}, "num_loader_workers"),
        ({"loss": None}, "loss must be callable"),
        ({"optimizer": SGD(nn.Linear(1, 1).parameters())}, "optimizer must be"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        task(**changes)


def test_a_mapping_of_inputs_becomes_keyword_arguments() -> None:
    model = nn.Bilinear(2, 3, 1)
    inputs = {"input1": torch.ones(4, 2), "input2": torch.ones(4, 3)}
    assert torch.equal(call(model, inputs), model(**inputs))
