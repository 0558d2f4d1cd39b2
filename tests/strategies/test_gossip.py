"""Gossip: random pairs, nothing lost, and everybody comes to the mean."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from disttrain_contract.messages import Progress
from disttrain_runtime.strategies.gossip import sends
from support.local_methods import STEPS, config, run, weights
from support.local_tasks import Replicas

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def mixing(step: int, world: int) -> np.ndarray:
    """What an exchange multiplies the ranks' values by."""
    matrix = np.eye(world) / 2
    for sender, receiver in enumerate(sends(step, world)):
        matrix[receiver, sender] += 0.5
    return matrix


@pytest.mark.parametrize("world", range(2, 10))
def test_every_rank_sends_to_one_other_and_hears_from_one(world: int) -> None:
    for step in range(50):
        targets = sends(step, world)
        assert sorted(targets) == list(range(world))
        assert all(target != rank for rank, target in enumerate(targets))


@pytest.mark.parametrize("world", [2, 3, 4, 5, 8])
def test_the_sum_stays_and_all_come_to_the_mean(world: int) -> None:
    """Also for an odd number: push-sum's weights, which are mixed in the same way, stay 1."""
    values = np.random.default_rng(world).normal(size=world)
    product = np.eye(world)
    for step in range(60):
        product = mixing(step, world) @ product
        assert product.sum(axis=0) == pytest.approx(1)
        assert product @ np.ones(world) == pytest.approx(1)
    assert product @ values == pytest.approx(values.mean(), abs=1e-6)


def test_pairs_are_drawn_anew() -> None:
    partners = [{sends(step, 8)[0] for step in range(first, first + 60)} for first in (0, 60)]
    assert partners == [set(range(1, 8))] * 2


def expected(world: int, meet: int) -> torch.Tensor:
    """The formula, plainly."""
    group = Replicas(world)
    for step in range(STEPS):
        before = [group.parameters(r) for r in range(world)]
        group.counts[:] = 0
        group.step(step)
        own, total = group.counts[:, 0], group.counts[:, 1]
        factors = own * world / total
        after = torch.stack(
            [b + f * (group.parameters(r) - b) for r, (b, f) in enumerate(zip(before, factors, strict=True))]
        )
        mixed = torch.tensor(mixing(step + 1, world)) @ after
        if (step + 1) % meet == 0 or step + 1 == STEPS:
            mixed = mixed.mean(dim=0).expand(world, -1)
        for rank in range(world):
            group.put(rank, mixed[rank])
    return group.parameters(0)


@pytest.mark.parametrize("world", [2, 3])
def test_it_is_the_formula(tmp_path: Path, world: int) -> None:
    """The smallest batch of an epoch has two samples: a third rank has none, and its step does not count."""
    told = run(tmp_path, "job", config("gossip", meet_every_steps=6), world).told
    torch.testing.assert_close(weights(tmp_path, "job"), expected(world, 6), rtol=1e-4, atol=2e-5)
    assert told.progress.metrics["replicaDistance"] >= 0


def test_replicas_are_the_further_apart_the_rarer_they_talk(tmp_path: Path) -> None:
    def distance(every: int) -> float:
        told = run(tmp_path, f"every-{every}", config("gossip", every_steps=every, meet_every_steps=STEPS)).told
        return told.of(Progress)[-1].metrics["replicaDistance"]

    assert 0 < distance(1) < distance(20)
