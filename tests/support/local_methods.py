"""Groups whose ranks exchange parameters: run one, and read what it ended with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.strategy import StrategyConfig, Synchronization
from support.gloo_ranks import Ranks

WORLD, STEPS = 3, 22
SLOW_RING = "support.local_tasks:build_with_slow_ring"


def config(method: str, *args: str, save: int = 100, accumulate: int = 1, **chosen: Any) -> RunConfig:
    """Of a run with this method."""
    return RunConfig(
        entrypoint="support.local_tasks:build",
        args=(f"--steps={STEPS}", *args),
        checkpoint=CheckpointConfig(every_steps=save, asynchronous=False),
        strategy=StrategyConfig(synchronization=Synchronization(method=method, **chosen), accumulate=accumulate),
    )


def run(folder: Path, name: str, config: RunConfig, world: int = WORLD, incarnation: int = 1) -> Ranks:
    """To its good end."""
    logs = folder / f"{name}-logs-{incarnation}"
    with Ranks(logs, config, world, job_dir=folder / name, incarnation=incarnation) as ranks:
        assert ranks.ended() == [0] * world, ranks.output(0)
        return ranks


def with_door(config: RunConfig, folder: Path, at: int, rank: int = 1) -> RunConfig:
    """One rank stops before one step."""
    return replace(config, args=(*config.args, f"--doors={folder}", f"--at=[{at}]", f"--rank={rank}"))


def weights(folder: Path, name: str, step: int = STEPS) -> Tensor:
    """The model of a checkpoint as one vector."""
    tensors = load_file(folder / name / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
    order = sorted(tensors, key=lambda key: (int(key.split(".")[0]), key.endswith("bias")))
    return torch.cat([tensors[key].flatten() for key in order]).double()
