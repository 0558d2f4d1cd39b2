"""Model averaging: the replicas' weighted mean every H steps, moments and all."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.messages import Failure
from support.local_methods import STEPS, config, run, weights
from support.local_tasks import Replicas

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def averaged(world: int, every: int, synchronous: int = 0, optimizer: str = "adamw") -> torch.Tensor:
    """The formula, plainly."""
    group = Replicas(world, optimizer=optimizer)
    for step in range(STEPS):
        group.step(step)
        finished = step + 1
        if not (finished <= synchronous or finished % every == 0 or finished == STEPS):
            continue
        shares = group.counts[:, 0] / group.counts[:, 1]
        assert shares.sum() == pytest.approx(1)
        mean = sum(w * group.parameters(r) for r, w in enumerate(shares))
        for rank in range(world):
            group.put(rank, mean)
        for number in range(len(list(group.models[0].parameters()))):
            states = [list(o.state.values())[number] for o in group.optimizers]
            for key in states[0]:
                if states[0][key].dim():
                    moment = sum(w * s[key] for w, s in zip(shares, states, strict=True))
                    for s in states:
                        s[key].copy_(moment)
        group.counts[:] = 0
    return group.parameters(0)


@pytest.mark.parametrize(("world", "every", "synchronous"), [(3, 4, 0), (2, 5, 7)])
def test_it_is_the_weighted_mean_of_models_and_moments(
    tmp_path: Path, world: int, every: int, synchronous: int
) -> None:
    """With batches that do not divide, and in the second case averaged in each of the first seven steps."""
    run(tmp_path, "job", config("modelAveraging", every_steps=every, synchronous_steps=synchronous), world)
    torch.testing.assert_close(weights(tmp_path, "job"), averaged(world, every, synchronous), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averaging_momentum_sgd_in_every_step_is_all_reduce(tmp_path: Path, accumulate: int) -> None:
    for method, chosen in (("allReduce", {}), ("modelAveraging", {"every_steps": 1})):
        run(tmp_path, method, config(method, "--optimizer=momentum", accumulate=accumulate, **chosen))
    torch.testing.assert_close(
        weights(tmp_path, "modelAveraging"), weights(tmp_path, "allReduce"), rtol=1e-4, atol=1e-5
    )


def test_batch_statistics_are_averaged_too(tmp_path: Path) -> None:
    """Evaluated alike by a group and by one rank that goes on from its checkpoint."""
    norm = config("modelAveraging", "--norm=true", "--samples=48", every_steps=4)
    first = run(tmp_path, "job", norm).told.progress
    again = run(tmp_path, "job", norm, world=1, incarnation=2)
    assert not again.told.of(Failure)
    assert again.told.progress.metrics["evalLoss"] == pytest.approx(first.metrics["evalLoss"], rel=1e-5)
