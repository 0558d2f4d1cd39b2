"""Ranks as a grid: data × stage × tensor. Pure, but for the making of torch's groups.

The tensor axis is the innermost: its ranks talk in every layer, so they should share a pod. Then come the stages, which talk
between layers; replicas talk once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.groups import Group

DATA, STAGE, TENSOR = "data", "stage", "tensor"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a rank stands in the grid, and the grid's size."""

    replica: int
    stage: int
    shard: int
    replicas: int
    stages: int
    shards: int


def spot_of(rank: int, world_size: int, stages: int, shards: int) -> Spot:
    """Raises EntrypointError when the grid does not come out even."""
    replicas, rest = divmod(world_size, stages * shards)
    if rest or not replicas:
        raise EntrypointError(
            f"strategy.parallelism: tensor {shards} × pipeline.stages {stages} = {stages * shards} does not divide the world size {world_size}: "
            f"choose workers × processesPerWorker as a multiple of {stages * shards}"
        )
    row, shard = divmod(rank, shards)
    replica, stage = divmod(row, stages)
    return Spot(replica, stage, shard, replicas, stages, shards)


class Mesh:
    """The grid of the present group. Making it is a collective."""

    def __init__(self, group: Group, stages: int, shards: int) -> None:
        self.spot = spot_of(group.rank, group.world_size, stages, shards)
        shape = (self.spot.replicas, stages, shards)
        self._mesh = init_device_mesh(group.device.type, shape, mesh_dim_names=(DATA, STAGE, TENSOR))

    def axis(self, name: str) -> DeviceMesh:
        """The ranks that differ from this one in this axis only."""
        return self._mesh[name]

    def ranks(self, name: str) -> dist.ProcessGroup:
        """The same as a group."""
        return self._mesh.get_group(name)
