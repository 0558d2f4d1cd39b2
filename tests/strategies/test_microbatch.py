"""Batches in parts: every sample once, weights that add up, and a clear word where a batch cannot be cut."""

from __future__ import annotations

from collections import namedtuple

import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.sampler import Share
from disttrain_runtime.strategies.microbatch import cut, microbatches

pytestmark = pytest.mark.torch

Pair = namedtuple("Pair", "a b")


def a_batch(samples: int) -> Batch:
    values = torch.arange(samples)
    return Batch(Share(0, 0, tuple(range(samples)), samples, samples), values, {"label": values * 10})


@pytest.mark.parametrize(("samples", "count"), [(8, 2), (7, 3), (2, 5), (1, 4), (6, 1)])
def test_every_sample_is_in_one_part(samples: int, count: int) -> None:
    parts = list(microbatches(a_batch(samples), count))
    assert torch.cat([p.inputs for p in parts]).tolist() == list(range(samples))
    assert torch.cat([p.targets["label"] for p in parts]).tolist() == [10 * i for i in range(samples)]
    assert sum(p.part for p in parts) == pytest.approx(1.0)
    assert [p.last for p in parts] == [False] * (min(count, samples) - 1) + [True]


def test_however_a_batch_nests() -> None:
    rows = torch.arange(4)
    value = Pair(rows, [rows, {"x": rows}, ["p", "q", "r", "s"], 7])
    found = cut(value, 1, 3, 4)
    assert isinstance(found, Pair) and found.a.tolist() == [1, 2]
    assert found.b[1]["x"].tolist() == [1, 2] and found.b[2] == ["q", "r"] and found.b[3] == 7


def test_a_batch_whose_first_dimension_is_not_the_samples_is_refused() -> None:
    with pytest.raises(TaskError, match=r"shape \(3, 4\) came with a batch of 4 samples"):
        cut(torch.zeros(3, 4), 0, 2, 4)
