"""Options of the step: parts of a batch, clipping, half the width. The first two change nothing that they should not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from tests.distributed.test_group_training import PLAIN, TASK, run, weights

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.precision import KEY, Precision

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def ends_with(tmp_path: Path, name: str, strategy: StrategyConfig, world: int) -> dict[str, torch.Tensor]:
    run(tmp_path, name, replace(TASK, args=(*PLAIN, "--steps=12"), strategy=strategy), world)
    return weights(tmp_path, name, 12)


@pytest.mark.parametrize(
    ("world", "strategy"),
    [
        (2, StrategyConfig(accumulate=3)),
        (3, StrategyConfig(accumulate=3)),
        (3, StrategyConfig(accumulate=2, max_grad_norm=0.05)),
        (4, StrategyConfig(accumulate=2, max_grad_norm=0.05)),
    ],
)
def test_parts_and_clipping_over_several_ranks_are_those_of_one_rank_and_whole_batches(
    tmp_path: Path, world: int, strategy: StrategyConfig
) -> None:
    """50 samples in batches of 16, on 3 ranks: 6, 5, 5 samples, cut in three; the last batch has 2: some of 3 or 4 ranks go without."""
    one = ends_with(tmp_path, "one", replace(strategy, accumulate=1), 1)
    several = ends_with(tmp_path, "several", strategy, world)
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=2e-5, atol=2e-6)


def test_clipping_clips(tmp_path: Path) -> None:
    free, clipped = (ends_with(tmp_path, f"{norm}", StrategyConfig(max_grad_norm=norm), 1) for norm in (None, 1e-9))
    assert any(not torch.equal(free[name], clipped[name]) for name in free)


def test_half_the_width_trains_in_parameters_of_full_width(tmp_path: Path) -> None:
    full = ends_with(tmp_path, "full", StrategyConfig(), 2)
    half = ends_with(tmp_path, "half", StrategyConfig(precision="bf16"), 2)
    assert all(value.dtype is torch.float32 for value in half.values())
    assert any(not torch.equal(half[name], full[name]) for name in full)
    for name, value in full.items():
        torch.testing.assert_close(half[name], value, rtol=0.2, atol=0.05)


def test_a_step_that_overflows_is_left_out_and_the_scale_is_part_of_the_state() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, precision = torch.optim.SGD([weight], lr=0.1), Precision("fp16", torch.device("cpu"))
    precision.scaled((weight * torch.tensor([1.0, float("inf")])).sum()).backward()
    precision.update(optimizer, None, [weight])
    assert weight.tolist() == [1.0, 1.0]
    halved = precision.state()[KEY]["scale"]
    other = Precision("fp16", torch.device("cpu"))
    assert halved < other.state()[KEY]["scale"]
    other.load(precision.state())
    optimizer.zero_grad()
    other.scaled(weight.sum()).backward()
    other.update(optimizer, None, [weight])
    assert weight.tolist() == pytest.approx([0.9, 0.9])
