"""How gradients go round: in larger buckets, with a graph that is taken as static. No bit of the result may depend on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import STEPS, TASK, holding, quiet, stopped_at

from disttrain_contract.messages import Restore
from disttrain_contract.strategy import Compression, StrategyConfig, Synchronization
from support.gloo_group import together
from support.gloo_ranks import digests
from support.strategy_stories import Meet, Run, broken_off, each, one_behind, smooth, trained

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WIDE = {"width": 100_000, "batch_size": 8, "samples": 24, "steps": 6}
"""Gradients of 6 MB: by default the first megabyte goes by itself."""


def static(**more: Any) -> StrategyConfig:
    return StrategyConfig(synchronization=Synchronization(static_graph=True), **more)


def test_buckets_are_as_large_as_was_said_and_nothing_else_changes() -> None:
    """Two ranks: the order in which two values are added does not matter, whatever the bucket."""
    large = StrategyConfig(synchronization=Synchronization(bucket_megabytes=16))
    configs = {"default": StrategyConfig(), "large": large, "static": static()}
    for found in together(2, each, configs, buckets):
        assert [count for count, _ in found.values()] == [2, 1, 2]
        assert found["large"][1] == found["static"][1] == found["default"][1]


def buckets(meet: Meet, config: StrategyConfig) -> tuple[int, int]:
    """How many there are; the bits of the weights after four steps."""
    run = Run(meet, config, smooth(**WIDE)).train(range(4))  # type: ignore[arg-type]
    count = len(run.strategy.replica.reducer._get_zeros_like_grad_buckets())  # type: ignore[attr-defined]
    return count, hash(run.done().weights.numpy().tobytes())


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"compression": Compression(method="bf16")}])
def test_a_static_graph_changes_no_bit(more: dict[str, Any]) -> None:
    configs = {"plain": StrategyConfig(**more), "static": static(**more)}
    for found in together(3, each, configs, trained, {}, 12):
        assert found["static"] == found["plain"]


def test_a_step_that_is_broken_off_or_finished_by_others_only_is_no_harm_to_a_static_graph() -> None:
    for story in (broken_off, one_behind):
        for found in together(3, each, {"static": static()}, story, 5, 9):
            expected, weights = found["static"]
            assert weights == expected


def test_with_a_static_graph_a_killed_rank_costs_no_step_and_no_bit(tmp_path: Path) -> None:
    """DDP moves to the new group with what it has learnt; the replacement learns it in its rehearsal, which passes the door twice."""
    config = replace(TASK, strategy=static())
    ranks, _ = stopped_at(tmp_path, at=15, config=config)
    with ranks:
        ranks.kill(1)
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * 3, ranks.output(0)
    assert ranks.told.restores[-1] == Restore(step=14, source="survivor")
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)
