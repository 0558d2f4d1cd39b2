"""`spec.strategy` → what the ranks are told about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disttrain_contract.strategy import SAMPLE, Compression, Parallelism, Privacy, StrategyConfig, Synchronization
from disttrain_operator.manifests import raw
from disttrain_operator.manifests.errors import SpecError

_DEFAULT = StrategyConfig()


def strategy_config(spec: Mapping[str, Any]) -> StrategyConfig:
    """What is not said has the runtime's defaults."""
    return StrategyConfig(
        parallelism=_parallelism(raw.obj(spec, "parallelism")),
        synchronization=_synchronization(raw.obj(spec, "synchronization")),
        compression=_compression(raw.obj(spec, "compression")),
        privacy=_privacy(raw.obj(spec, "privacy")) if raw.obj(spec, "privacy") else None,
        precision=raw.text(spec, "precision") or _DEFAULT.precision,
        accumulate=raw.integer(spec, "accumulate") or 1,
        max_grad_norm=raw.number(spec, "maxGradNorm"),
        activation_checkpointing=spec.get("activationCheckpointing") is True,
    )


def _parallelism(spec: Mapping[str, Any]) -> Parallelism:
    pipeline = raw.obj(spec, "pipeline")
    return Parallelism(
        tensor=raw.integer(spec, "tensor") or 1,
        sequence=spec.get("sequence") is True,
        stages=raw.integer(pipeline, "stages") or 1,
        schedule=raw.text(pipeline, "schedule") or _DEFAULT.parallelism.schedule,
        microbatches=raw.integer(pipeline, "microbatches"),
        split=tuple(str(name) for name in raw.items(pipeline, "split")),
        shard=raw.text(spec, "shard") or _DEFAULT.parallelism.shard,
    )


def _synchronization(spec: Mapping[str, Any]) -> Synchronization:
    return Synchronization(
        method=raw.text(spec, "method") or _DEFAULT.synchronization.method,
        servers=raw.integer(spec, "servers"),
        every_steps=raw.integer(spec, "everySteps"),
        synchronous_steps=raw.integer(spec, "synchronousSteps"),
        meet_every_steps=raw.integer(spec, "meetEverySteps"),
        max_staleness=raw.integer(spec, "maxStaleness"),
        outer_learning_rate=raw.number(spec, "outerLearningRate"),
        outer_momentum=raw.number(spec, "outerMomentum"),
        fragments=raw.integer(spec, "fragments"),
        static_graph=spec.get("staticGraph") is True,
        bucket_megabytes=raw.integer(spec, "bucketMegabytes"),
    )


def _compression(spec: Mapping[str, Any]) -> Compression:
    return Compression(
        method=raw.text(spec, "method") or _DEFAULT.compression.method,
        error_feedback=spec.get("errorFeedback") is not False,
        rank=raw.integer(spec, "rank"),
        ratio=raw.number(spec, "ratio"),
    )


def _privacy(spec: Mapping[str, Any]) -> Privacy:
    needed = {}
    for key in ("noiseMultiplier", "maxGradNorm", "delta"):
        value = raw.number(spec, key)
        if value is None:
            raise SpecError(f"spec.strategy.privacy.{key}", "is missing")
        needed[key] = float(value)
    return Privacy(
        unit=raw.text(spec, "unit") or SAMPLE,
        noise_multiplier=needed["noiseMultiplier"],
        max_grad_norm=needed["maxGradNorm"],
        delta=needed["delta"],
        target_epsilon=raw.number(spec, "targetEpsilon"),
    )
