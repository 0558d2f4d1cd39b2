"""A bare loop on a grid of ranks, data × stage × tensor: torch's pipelining over torch's tensor parallel, and an all-reduce of gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from typing_extensions import override

from benchmarks.strategies.bare_loop import Bare


class Grid(Bare):
    """Two stages, each of which begins with a pair of matrices."""

    @override
    def begin(self) -> None:
        mesh = self.mesh()
        stage, stages = mesh["stage"].get_local_rank(), self.chosen["stages"]
        (cut,) = (int(name) for name in self.chosen["split"])
        mine = nn.Sequential(*(self.layers[cut:] if stage else self.layers[:cut]))
        parallelize_module(mine, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        piece = PipelineStage(mine, stage, stages, torch.device("cpu"), group=mesh.get_group("stage"))
        self.schedule: Any = Schedule1F1B(piece, self.chosen["microbatches"], loss_fn=self.task.loss)
        self.first, self.last, self.replicas = stage == 0, stage == stages - 1, mesh.get_group("data")
        self.live = list(mine.parameters())
        self.optimizer = self.task.optimizer(iter(self.live))

    def mesh(self) -> Any:
        """Ranks that share layers are neighbours."""
        stages, shards = self.chosen["stages"], self.chosen["tensor"]
        shape = (self.world // stages // shards, stages, shards)
        return init_device_mesh("cpu", shape, mesh_dim_names=("data", "stage", "tensor"))

    @override
    def shares(self) -> tuple[int, int]:
        inside = self.chosen["stages"] * self.chosen["tensor"]
        return self.rank // inside, self.world // inside

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        self.schedule.step(*([inputs] if self.first else []), target=targets if self.last else None)
        gradients = [_here(p.grad) for p in self.live if p.grad is not None]
        row = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(row, group=self.replicas)
        row /= dist.get_world_size(self.replicas)
        for gradient, part in zip(gradients, torch.split(row, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        self.optimizer.step()


def _here(gradient: Tensor) -> Tensor:
    """This rank's part."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
