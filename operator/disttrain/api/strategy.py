"""`spec.strategy`: how the work is spread over ranks. Most of it has no behaviour yet and is refused until it has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from disttrain.api.schema import ApiModel, not_implemented, only


class Pipeline(ApiModel):
    """Split the model's layers over ranks."""

    stages: int = Field(ge=1, le=1024, description="Number of stages.")
    schedule: Literal["gpipe", "1f1b", "interleaved1f1b", "zeroBubble"] = Field(
        "1f1b", description="Order of forward and backward passes."
    )
    microbatches: int | None = Field(None, ge=1, description="Microbatches per step; four per stage if unset.")


class Parallelism(ApiModel):
    """Degrees of the mesh. data × tensor × pipeline.stages = world size."""

    data: int | Literal["auto"] = Field(
        "auto", description="Number of replicas; auto: what the other axes leave.", json_schema_extra=only("auto")
    )
    tensor: int = Field(1, ge=1, le=1024, description="Ranks that share each layer.", json_schema_extra=only(1))
    pipeline: Pipeline | None = Field(
        None, description="Split layers into stages.", json_schema_extra=not_implemented()
    )
    shard: Literal["none", "full", "hybrid"] = Field(
        "none", description="Shard parameters over replicas (FSDP).", json_schema_extra=only("none")
    )


class Synchronization(ApiModel):
    """How replicas stay in step."""

    method: Literal["allReduce", "parameterServer", "modelAveraging", "asyncRing", "roundRobin", "gossip"] = Field(
        "allReduce", description="allReduce: average gradients at every step.", json_schema_extra=only("allReduce")
    )
    servers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="parameterServer: over how many servers the state is spread.",
        json_schema_extra=not_implemented(),
    )
    every_steps: int | None = Field(
        None,
        ge=1,
        description="Averaging methods: synchronise after this many steps.",
        json_schema_extra=not_implemented(),
    )
    max_staleness: int | None = Field(
        None,
        ge=0,
        description="Asynchronous methods: how many steps old an update may be.",
        json_schema_extra=not_implemented(),
    )


class Compression(ApiModel):
    """Send fewer bytes."""

    method: Literal["none", "fp16", "bf16", "powerSGD", "topK", "sign"] = Field(
        "none", description="How gradients are compressed."
    )
    error_feedback: bool = Field(True, description="Add what was lost to the next step's gradient.")
    rank: int | None = Field(None, ge=1, description="powerSGD: rank of the approximation.")
    ratio: float | None = Field(None, gt=0, le=1, description="topK: share of values that is sent.")


class Privacy(ApiModel):
    """Differentially private training (DP-SGD)."""

    noise_multiplier: float = Field(gt=0, description="Standard deviation of the noise over the clipping norm.")
    max_grad_norm: float = Field(gt=0, description="Each sample's gradient is clipped to this norm.")
    delta: float = Field(gt=0, lt=1, description="Probability of failure of the guarantee.")
    target_epsilon: float | None = Field(None, gt=0, description="Stop when this much privacy is spent.")


class Strategy(ApiModel):
    """How the model and the work are spread, and how replicas stay in step."""

    parallelism: Parallelism | None = Field(None, description="Degrees of the mesh.")
    synchronization: Synchronization | None = Field(None, description="How replicas stay in step.")
    compression: Compression | None = Field(None, description="Send fewer bytes.", json_schema_extra=not_implemented())
    privacy: Privacy | None = Field(
        None, description="Differentially private training.", json_schema_extra=not_implemented()
    )
