"""DiLoCo: local steps, then an outer Nesterov step with the mean of what they changed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from disttrain_runtime.strategies.di_lo_co import fragments
from support.local_methods import STEPS, config, run, weights
from support.local_tasks import Replicas

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def expected(world: int, every: int, parts: int, rate: float, momentum: float) -> torch.Tensor:
    """The formula, plainly: fragment f is exchanged at its own offset, and all of them in the end."""
    group = Replicas(world)
    sizes = [p.numel() for p in group.models[0].parameters()]
    ends = np.cumsum(sizes)
    places = [slice(ends[f[0]] - sizes[f[0]], ends[f[-1]]) for f in fragments(sizes, parts)]
    common = group.parameters(0)
    velocity = torch.zeros_like(common)
    since = np.zeros((parts, world, 2))
    for step in range(STEPS):
        before = group.counts.copy()
        group.step(step)
        since += group.counts - before
        for f, at in enumerate(places):
            if step + 1 != STEPS and (step + 1) % every != (f + 1) * every // parts % every:
                continue
            shares = since[f, :, 0] / since[f, :, 1]
            delta = sum(w * (common - group.parameters(r))[at] for r, w in enumerate(shares))
            velocity[at] = momentum * velocity[at] + delta
            common[at] -= rate * (delta + momentum * velocity[at])
            for rank in range(world):
                values = group.parameters(rank)
                values[at] = common[at]
                group.put(rank, values)
            since[f] = 0
    return common


@pytest.mark.parametrize(
    ("world", "every", "parts", "rate", "momentum"), [(3, 6, 1, 0.7, 0.9), (2, 6, 3, 0.7, 0.9), (3, 4, 2, 1.0, 0.0)]
)
def test_it_is_the_formula(tmp_path: Path, world: int, every: int, parts: int, rate: float, momentum: float) -> None:
    chosen = {"fragments": parts, "outer_learning_rate": rate, "outer_momentum": momentum}
    run(tmp_path, "job", config("diLoCo", every_steps=every, **chosen), world)
    torch.testing.assert_close(
        weights(tmp_path, "job"), expected(world, every, parts, rate, momentum), rtol=1e-4, atol=2e-5
    )


def test_fragments_hold_every_parameter_once_and_are_about_equal() -> None:
    for sizes, count in (
        ([5, 5, 5, 5], 2),
        ([100, 1, 1, 1], 3),
        ([1, 1, 1, 100], 3),
        ([3], 4),
        ([7, 2, 9, 4, 1, 8], 6),
    ):
        found = fragments(sizes, count)
        assert [i for f in found for i in f] == list(range(len(sizes)))
        assert len(found) == min(count, len(sizes))
        assert all(found)
    assert fragments([5, 5, 5, 5], 2) == [(0, 1), (2, 3)]
