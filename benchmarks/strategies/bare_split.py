"""Bare loops whose model is cut over the ranks: torch's FSDP2, tensor parallel and pipelining, as its documentation shows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.parallel.style import ParallelStyle
from typing_extensions import override

from benchmarks.strategies.bare_loop import Bare


class FullyShard(Bare):
    """Each layer by itself."""

    @override
    def begin(self) -> None:
        shape = self.shape()
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "cut")[-len(shape) :])
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.task.model, mesh=mesh)
        super().begin()

    def shape(self) -> tuple[int, ...]:
        """Of the grid of ranks; the last dimension is that over which the model is cut."""
        return (self.world,)

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.task.model(inputs), targets))
        self.optimizer.step()


class HybridShard(FullyShard):
    """Over two ranks, copied over the others."""

    @override
    def shape(self) -> tuple[int, ...]:
        return (self.world // 2, 2)


class Tensors(Bare):
    """The two pairs of matrices of `workload.wide`."""

    @override
    def begin(self) -> None:
        self.parallelize()
        super().begin()

    def parallelize(self) -> None:
        """Cut the layers."""
        column, row = ColwiseParallel(), RowwiseParallel()
        mesh = init_device_mesh("cpu", (self.world,))
        parallelize_module(self.task.model, mesh, {"0": column, "2": row, "4": column, "6": row})

    @override
    def shares(self) -> tuple[int, int]:
        return 0, 1

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.task.model(inputs), targets))
        self.optimizer.step()


class Sequences(Tensors):
    """The blocks of `workload.sequences`, as torch's tutorial has its sequence parallel."""

    @override
    def parallelize(self) -> None:
        places = Shard(1)
        plan: dict[str, ParallelStyle] = {}
        for block in ("0", "1"):
            plan |= {
                f"{block}.norm": SequenceParallel(use_local_output=True),
                f"{block}.up": ColwiseParallel(input_layouts=places),
                f"{block}.down": RowwiseParallel(output_layouts=places),
            }
        plan["0"] = PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(places,), use_local_output=True
        )
        plan["1"] = PrepareModuleOutput(output_layouts=places, desired_output_layouts=Replicate())
        parallelize_module(self.task.model, init_device_mesh("cpu", (self.world,)), plan)

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.task.loss(self.task.model(inputs), targets))
        for parameter in self.task.model.parameters():
            if isinstance(parameter.grad, DTensor):  # a norm's is of this rank's places
                parameter.grad = parameter.grad.redistribute(placements=parameter.placements)
        self.optimizer.step()


class Pipeline(Bare):
    """torch's schedules over `nn.Sequential`s."""

    @override
    def begin(self) -> None:
        begins = [0, *(int(name) for name in self.chosen["split"]), len(self.layers)]
        runs = [nn.Sequential(*self.layers[a:b]) for a, b in zip(begins, begins[1:], strict=False)]
        homes = _homes(self.chosen["schedule"], len(runs), self.world)
        mine = [number for number, home in enumerate(homes) if home == self.rank]
        stages = [PipelineStage(runs[n], n, len(runs), torch.device("cpu")) for n in mine]
        self.schedule: Any = _schedule(self.chosen["schedule"], stages, self.chosen["microbatches"], self.task.loss)
        self.first, self.last = 0 in mine, len(runs) - 1 in mine
        self.optimizer = self.task.optimizer(p for n in mine for p in runs[n].parameters())

    @override
    def shares(self) -> tuple[int, int]:
        return 0, 1

    @override
    def train(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        self.schedule.step(*([inputs] if self.first else []), target=targets if self.last else None)
        self.optimizer.step()


def _homes(schedule: str, runs: int, ranks: int) -> list[int]:
    """On which rank each run of layers is: round and round, or there and back."""
    there = list(range(ranks))
    return there + there[::-1] if schedule == "zeroBubble" else there * (runs // ranks)


def _schedule(name: str, stages: list[PipelineStage], microbatches: int, loss: Any) -> Any:
    if name in ("gpipe", "1f1b"):
        kind = ScheduleGPipe if name == "gpipe" else Schedule1F1B
        return kind(stages[0], microbatches, loss_fn=loss)
    several = ScheduleInterleaved1F1B if name == "interleaved1f1b" else ScheduleZBVZeroBubble
    return several(list(stages), microbatches, loss_fn=loss)
