"""How the ranks of a group train one model together: one technique a file, one line here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.strategies.all_reduce import AllReduce
from disttrain_runtime.strategies.async_ring import AsyncRing
from disttrain_runtime.strategies.di_lo_co import DiLoCo
from disttrain_runtime.strategies.gossip import Gossip
from disttrain_runtime.strategies.model_averaging import ModelAveraging
from disttrain_runtime.strategies.parameter_server import ParameterServer
from disttrain_runtime.strategies.round_robin import RoundRobin
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.task import Task

STRATEGIES: dict[str, Callable[[Task, StrategyConfig, torch.device], Strategy]] = {
    "allReduce": AllReduce,
    "parameterServer": ParameterServer,
    "asyncRing": AsyncRing,
    "diLoCo": DiLoCo,
    "gossip": Gossip,
    "modelAveraging": ModelAveraging,
    "roundRobin": RoundRobin,
}
"""By the name in `spec.strategy.synchronization.method`."""


def make_strategy(config: StrategyConfig, task: Task, device: torch.device) -> Strategy:
    """The chosen technique around a task's model and optimizer."""
    if config.privacy is not None:
        from disttrain_runtime.strategies.private import Private  # opacus takes a second to import

        return Private(task, config, device)
    method = config.synchronization.method
    if method not in STRATEGIES:
        raise EntrypointError(
            f"strategy.synchronization.method {method!r} is unknown to this image; it has: {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[method](task, config, device)
