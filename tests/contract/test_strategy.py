"""The strategy survives the trip through the environment."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from disttrain_contract.env import RunConfig, run_from_json
from disttrain_contract.strategy import (
    Compression,
    Parallelism,
    Privacy,
    StrategyConfig,
    Synchronization,
    strategy_from_json,
)

WHOLE = StrategyConfig(
    parallelism=Parallelism(tensor=2, stages=2, schedule="gpipe", microbatches=8, split=("layer.4",), shard="full"),
    synchronization=Synchronization(method="diLoCo", every_steps=50, outer_momentum=0.9),
    compression=Compression(method="topK", ratio=0.1, error_feedback=False),
    privacy=Privacy(noise_multiplier=1.1, max_grad_norm=1.0, delta=1e-5),
    precision="bf16",
    accumulate=4,
    max_grad_norm=1.0,
)


@pytest.mark.parametrize("strategy", [StrategyConfig(), WHOLE])
def test_it_comes_out_as_it_went_in(strategy: StrategyConfig) -> None:
    run = RunConfig(entrypoint="a:b", strategy=strategy)
    assert run_from_json(json.dumps(asdict(run))) == run


def test_a_run_of_an_operator_that_knows_nothing_of_it_is_plain() -> None:
    assert strategy_from_json({}) == StrategyConfig() and StrategyConfig().replicas_only
    assert not WHOLE.replicas_only


def test_a_word_of_a_newer_operator_is_an_error() -> None:
    with pytest.raises(TypeError, match="warp"):
        strategy_from_json({"warp": 9})
