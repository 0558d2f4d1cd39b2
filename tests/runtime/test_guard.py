"""What the guard sees: every single bit, every NaN, and who is the odd one out."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.errors import NonFiniteError, judge
from disttrain_runtime.guard import inspect, minority, require_finite

pytestmark = pytest.mark.torch


def digest(tensors: list[torch.Tensor]) -> int:
    return inspect(tensors)[0]


def finite(tensors: list[torch.Tensor]) -> bool:
    return inspect(tensors)[1]


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.complex64)


def filled(dtype: torch.dtype, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 200, (count,), generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 64, 1001])
def test_every_single_bit_counts(dtype: torch.dtype, count: int) -> None:
    tensor = filled(dtype, count)
    before = digest([tensor])
    flat = tensor.view(-1).view(torch.uint8)
    for place in {0, len(flat) // 2, len(flat) - 1}:
        for bit in range(8):
            flat[place] ^= 1 << bit
            assert digest([tensor]) != before, (place, bit)
            flat[place] ^= 1 << bit
    assert digest([tensor]) == before


def test_the_place_of_a_tensor_counts_and_an_empty_one_is_nothing() -> None:
    a, b = filled(torch.float32, 5), filled(torch.float32, 8) + 1
    assert digest([a, b]) != digest([b, a])
    assert digest([]) == digest([torch.empty(0)]) == 0


def test_a_view_that_is_not_contiguous_or_not_aligned_is_read_all_the_same() -> None:
    matrix = torch.arange(12.0).view(3, 4)
    assert digest([matrix.t()]) == digest([matrix.t().contiguous()])
    assert digest([matrix.view(-1)[1:9]]) == digest([matrix.view(-1)[1:9].clone()])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_found_anywhere(value: float) -> None:
    sound = [torch.zeros(5), torch.full((1000,), 6e4, dtype=torch.float16), torch.arange(3)]
    assert finite(sound), "large is not infinite"
    sound[1][999] = value
    assert not finite(sound)
    assert finite([]) and finite([torch.empty(0)])


@pytest.mark.parametrize(
    ("digests", "odd"),
    [
        ([5, 5, 7], {2}), ([7, 5, 5], {0}), ([5, 5, 5, 7, 9], {3, 4}), ([5, 7], None), ([5, 5, 7, 7], None),
        ([5, 6, 7], None), ([5, 5, 5], set()),
    ],
)  # fmt: skip
def test_the_odd_one_is_named_only_by_a_majority(digests: list[int], odd: set[int] | None) -> None:
    assert minority(digests) == odd


def test_a_loss_that_is_no_number_has_a_class_a_step_and_advice() -> None:
    require_finite(torch.tensor(0.5), 41, 1)
    with pytest.raises(NonFiniteError, match="the loss of rank 1 is nan in step 41: lower the learning rate") as caught:
        require_finite(torch.tensor(math.nan), 41, 1)
    assert judge(caught.value).failure_class == "NonFinite"
