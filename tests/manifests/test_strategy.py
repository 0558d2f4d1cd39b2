"""`spec.strategy`, as the ranks hear of it."""

from __future__ import annotations

import pytest

from disttrain_contract.strategy import Compression, Parallelism, Privacy, StrategyConfig, Synchronization
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.strategy import strategy_config


def test_nothing_said_is_plain_data_parallel() -> None:
    assert strategy_config({}) == StrategyConfig()


def test_all_that_can_be_said_arrives() -> None:
    spec = {
        "parallelism": {
            "tensor": 2,
            "sequence": True,
            "pipeline": {"stages": 3, "schedule": "gpipe", "microbatches": 6, "split": ["a", "b"]},
            "shard": "hybrid",
        },
        "synchronization": {
            "method": "diLoCo", "everySteps": 20, "outerLearningRate": 0.5, "outerMomentum": 0.8, "fragments": 2,
        },
        "compression": {"method": "powerSGD", "rank": 4, "errorFeedback": False},
        "privacy": {"unit": "worker", "noiseMultiplier": 1, "maxGradNorm": 0.5, "delta": 1e-5, "targetEpsilon": 8},
        "precision": "bf16", "accumulate": 2, "maxGradNorm": 1.5,
    }  # fmt: skip
    assert strategy_config(spec) == StrategyConfig(
        parallelism=Parallelism(
            tensor=2, sequence=True, stages=3, schedule="gpipe", microbatches=6, split=("a", "b"), shard="hybrid"
        ),
        synchronization=Synchronization(
            method="diLoCo", every_steps=20, outer_learning_rate=0.5, outer_momentum=0.8, fragments=2
        ),
        compression=Compression(method="powerSGD", rank=4, error_feedback=False),
        privacy=Privacy(unit="worker", noise_multiplier=1.0, max_grad_norm=0.5, delta=1e-5, target_epsilon=8),
        precision="bf16",
        accumulate=2,
        max_grad_norm=1.5,
    )


def test_how_gradients_go_round_arrives() -> None:
    found = strategy_config({"synchronization": {"staticGraph": True, "bucketMegabytes": 50}})
    assert found.synchronization == Synchronization(static_graph=True, bucket_megabytes=50)


def test_what_an_older_server_let_through_is_named() -> None:
    with pytest.raises(SpecError, match=r"spec.strategy.privacy.delta: is missing|delta"):
        strategy_config({"privacy": {"noiseMultiplier": 1, "maxGradNorm": 1}})
