"""Round-robin: one rank after the other brings its progress into the common model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from support.local_methods import STEPS, config, run, weights
from support.local_tasks import Replicas

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def expected(world: int, every: int, steps: int = STEPS) -> torch.Tensor:
    """The formula, plainly: x_r = c + what r has learnt since its last turn."""
    group = Replicas(world)
    common = group.parameters(0)
    for step in range(steps):
        group.step(step)
        finished = step + 1
        if finished % every and finished != steps:
            continue
        turns = range(world) if finished == steps else [(finished // every - 1) % world]
        shares = group.counts[:, 0] / group.counts[:, 1]
        told = sum(shares[r] * (group.parameters(r) - common) for r in turns)
        new = common + told
        for rank in range(world):
            group.put(rank, new if rank in turns else group.parameters(rank) + told)
        for rank in turns:
            group.counts[rank] = 0
        common = new
    return common


@pytest.mark.parametrize(("world", "every"), [(3, 2), (2, 5)])
def test_it_is_the_formula(tmp_path: Path, world: int, every: int) -> None:
    """The last step is nobody's turn by number: then all take theirs."""
    run(tmp_path, "job", config("roundRobin", every_steps=every), world)
    torch.testing.assert_close(weights(tmp_path, "job"), expected(world, every), rtol=1e-4, atol=1e-5)


def test_alone_it_is_plain_training(tmp_path: Path) -> None:
    run(tmp_path, "plain", config("allReduce"), 1)
    run(tmp_path, "job", config("roundRobin", every_steps=3), 1)
    torch.testing.assert_close(weights(tmp_path, "job"), weights(tmp_path, "plain"), rtol=1e-5, atol=1e-6)
