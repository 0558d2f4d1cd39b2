"""Replicas that are not in step learn as much: real digits, against five seeds of plain synchronous training."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.env import RunConfig
from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.generators import reseed
from disttrain_runtime.randomness import Stream
from disttrain_runtime.sampler import SampleOrder
from support.gloo_ranks import Ranks
from support.local_tasks import build_digits

pytestmark = [pytest.mark.torch, pytest.mark.accuracy, pytest.mark.timeout(180)]

SEEDS = range(5)


@cache
def synchronous(seed: int) -> float:
    """What one process that sees the global batches gets right in the test."""
    reseed(seed, Stream.BUILD, 0, 0)
    task = build_digits()
    optimizer = task.optimizer(task.model.parameters())
    order = SampleOrder(seed=seed, samples=len(task.train_data), batch_size=task.batch_size)
    for step in range(task.total_steps):
        chosen = list(order.global_batch(step))
        optimizer.zero_grad()
        task.loss(task.model(task.train_data.images[chosen]), task.train_data.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        right = task.model(task.eval_data.images).argmax(1) == task.eval_data.labels
    return float(right.double().mean())


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        ("asyncRing", {"max_staleness": 4}),
        ("gossip", {}),
        ("roundRobin", {"every_steps": 4}),
    ],
)
def test_it_is_within_the_spread_of_synchronous_training(tmp_path: Path, method: str, chosen: dict[str, Any]) -> None:
    """Three ranks; at a staleness of up to 4 steps, 1 step without news from two of three, and 12 steps."""
    run = RunConfig(
        entrypoint="support.local_tasks:build_digits",
        seed=1,
        strategy=StrategyConfig(synchronization=Synchronization(method=method, **chosen)),
    )
    with Ranks(tmp_path, run, 3) as ranks:
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert ranks.told.progress.metrics["accuracy"] >= min(synchronous(seed) for seed in SEEDS)
