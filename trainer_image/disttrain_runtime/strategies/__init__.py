"""How the ranks of a group train one model together: one technique a file, one line here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from disttrain_contract.strategy import NONE, WORKER, Parallelism, StrategyConfig
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.strategies.all_reduce import AllReduce
from disttrain_runtime.strategies.async_ring import AsyncRing
from disttrain_runtime.strategies.di_lo_co import DiLoCo
from disttrain_runtime.strategies.fsdp import FullyShard
from disttrain_runtime.strategies.gossip import Gossip
from disttrain_runtime.strategies.model_averaging import ModelAveraging
from disttrain_runtime.strategies.parameter_server import ParameterServer
from disttrain_runtime.strategies.pipeline import Pipeline
from disttrain_runtime.strategies.round_robin import RoundRobin
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.strategies.tensor import TensorParallel
from disttrain_runtime.task import Task

STRATEGIES: dict[str, Callable[[Task, StrategyConfig, torch.device], Strategy]] = {
    "allReduce": AllReduce,
    "parameterServer": ParameterServer,
    "asyncRing": AsyncRing,
    "diLoCo": DiLoCo,
    "gossip": Gossip,
    "modelAveraging": ModelAveraging,
    "roundRobin": RoundRobin,
    "pipeline": Pipeline,
    "shard": FullyShard,
    "tensor": TensorParallel,
}
"""By the name in `spec.strategy.synchronization.method`, or by the way in which the model is split."""


def make_strategy(config: StrategyConfig, task: Task, device: torch.device) -> Strategy:
    """The chosen technique around a task's model and optimizer."""
    if config.privacy is not None:  # opacus takes a second to import
        from disttrain_runtime.strategies.private import Private
        from disttrain_runtime.strategies.private_averaging import PrivateAveraging

        return (PrivateAveraging if config.privacy.unit == WORKER else Private)(task, config, device)
    method = _split_by(config.parallelism) or config.synchronization.method
    if method not in STRATEGIES:
        raise EntrypointError(
            f"strategy.synchronization.method {method!r} is unknown to this image; it has: {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[method](task, config, device)


def _split_by(parallelism: Parallelism) -> str | None:
    """What a rank has no whole model for. Stages may be cut in turn (see `pipeline`)."""
    if parallelism.stages > 1:
        return "pipeline"
    if parallelism.shard != NONE:
        return "shard"
    if parallelism.tensor > 1:
        return "tensor"
    return None
