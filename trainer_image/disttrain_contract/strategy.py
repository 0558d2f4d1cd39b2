"""`spec.strategy` in the runtime's words: how the model and the work are spread over ranks, and how replicas stay in step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALL_REDUCE = "allReduce"
NONE = "none"
SAMPLE, WORKER = "sample", "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Degrees of the mesh; the data axis takes what the others leave of the world size."""

    tensor: int = 1
    sequence: bool = False
    """Ranks that share layers share sequences, too, where layers are not cut."""
    stages: int = 1
    """Of the pipeline."""
    schedule: str = "1f1b"
    microbatches: int | None = None
    split: tuple[str, ...] = ()
    """Names of the modules that begin a stage; empty: balanced by measured cost."""
    shard: str = NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronization:
    """How replicas stay in step. What a method has no use for is None."""

    method: str = ALL_REDUCE
    servers: int | None = None
    every_steps: int | None = None
    synchronous_steps: int | None = None
    meet_every_steps: int | None = None
    max_staleness: int | None = None
    outer_learning_rate: float | None = None
    outer_momentum: float | None = None
    fragments: int | None = None
    static_graph: bool = False
    """Every step uses the same parameters in the same order."""
    bucket_megabytes: int | None = None
    """Gradients that go round together are at most so large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Send fewer bytes."""

    method: str = NONE
    error_feedback: bool = True
    rank: int | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """Differentially private training."""

    unit: str = SAMPLE
    """What hides: one sample, or all that one rank trains on."""
    noise_multiplier: float
    max_grad_norm: float
    delta: float
    target_epsilon: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """The whole of it; the defaults are plain data parallel training in single precision."""

    parallelism: Parallelism = field(default_factory=Parallelism)
    synchronization: Synchronization = field(default_factory=Synchronization)
    compression: Compression = field(default_factory=Compression)
    privacy: Privacy | None = None
    precision: str = "fp32"
    accumulate: int = 1
    """Microbatches per step, one after the other, before gradients are exchanged."""
    max_grad_norm: float | None = None
    """Gradients of the whole model are clipped to this norm."""
    activation_checkpointing: bool = False

    @property
    def replicas_only(self) -> bool:
        """Every rank has the whole model."""
        split = self.parallelism
        return split.tensor == split.stages == 1 and split.shard == NONE


def strategy_from_json(raw: Mapping[str, Any]) -> StrategyConfig:
    """Rebuild it from plain values. Raises TypeError for unknown names: operator and image differ in version."""
    found = dict(raw)
    if "parallelism" in found:
        parts = found["parallelism"]
        found["parallelism"] = Parallelism(**{**parts, "split": tuple(parts.get("split", ()))})
    if "synchronization" in found:
        found["synchronization"] = Synchronization(**found["synchronization"])
    if "compression" in found:
        found["compression"] = Compression(**found["compression"])
    if found.get("privacy") is not None:
        found["privacy"] = Privacy(**found["privacy"])
    return StrategyConfig(**found)
