"""Batches for a rank."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from disttrain_runtime.data import to_device, training_batches
from disttrain_runtime.errors import TaskError
from disttrain_runtime.sampler import SampleOrder, Share
from disttrain_runtime.task import Task

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


class Noisy:
    """Samples with noise of their own."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return torch.randn(3), index


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {
        "model": nn.Linear(3, 1), "train_data": Noisy(), "loss": nn.functional.mse_loss, "optimizer": partial(torch.optim.SGD, lr=0.1),
        "batch_size": 4, "steps": 9,
    }  # fmt: skip
    return Task(**(given | changes))


ORDER = SampleOrder(seed=3, samples=10, batch_size=4)


def shares(steps: range, rank: int, world: int) -> list[Share]:
    return [ORDER.share(step, rank, world) for step in steps]


def test_a_step_fetched_again_is_the_same_to_the_last_bit() -> None:
    whole = list(training_batches(task(), ORDER, shares(range(6), 0, 2), CPU))
    again = list(training_batches(task(), ORDER, shares(range(4, 6), 0, 2), CPU))
    for a, b in zip(whole[4:], again, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert tuple(a.targets.tolist()) == a.share.indices == b.share.indices


def test_ranks_draw_different_noise_for_the_same_sample() -> None:
    one, two = (next(iter(training_batches(task(), ORDER, shares(range(2, 3), rank, 3), CPU))) for rank in (0, 2))
    assert two.share.own == 0, "two samples for three ranks: the third fetches a stand-in"
    assert one.share.indices == two.share.indices
    assert not torch.equal(one.inputs, two.inputs)


def test_a_collate_function_that_gives_no_pair_is_named() -> None:
    with pytest.raises(TaskError, match=r"must be a pair \(inputs, targets\), got dict"):
        next(iter(training_batches(task(collate=lambda samples: {"x": 1}), ORDER, shares(range(1), 0, 1), CPU)))


def test_tensors_are_moved_however_they_are_nested() -> None:
    pair = namedtuple("pair", "left right")
    value = {"a": [torch.ones(1), (torch.ones(2), "text")], "b": pair(torch.ones(3), None)}
    moved = to_device(value, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == moved["b"].left.device.type == "meta"
    assert (moved["a"][1][1], moved["b"].right, type(moved["b"])) == ("text", None, pair)
