"""Layers are cut in two directions and several ranks compute each together: torch's tensor parallel, on DTensor.

Shoeybi et al. 2019, "Megatron-LM": a `column` layer has a part of its outputs on each rank and needs nothing to be sent; a `row` layer takes
such parts as its inputs, and its outputs are the sum over the ranks: one all-reduce forward and one backward for each pair.
Bytes a rank sends each step, T ranks, activations of a bytes behind a pair: 2 (T - 1) / T × 2 a for each pair, and with D replicas
2 (D - 1) / D × its parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle
from typing_extensions import override

from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.blocks import blocks_of, chain_of, recompute
from disttrain_runtime.strategies.mesh import DATA, TENSOR, Mesh
from disttrain_runtime.strategies.parted import Parted, add_up
from disttrain_runtime.strategies.sequence import COLUMN, ROW, complete, cut_sequences, require_even
from disttrain_runtime.strategies.strategy import Seat

_BETWEEN = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout)
"""Element by element: they do not mind that they see a part of the features."""


class TensorParallel(Parted):
    """Tensor × data."""

    @override
    def join(self, group: Group) -> None:
        super().join(group)
        self._mesh = Mesh(group, 1, self.config.parallelism.tensor)

    @property
    @override
    def seat(self) -> Seat:
        spot = self._mesh.spot
        return Seat(spot.replica, spot.replicas, spot.replica, speaks=spot.shard == 0)

    @property
    @override
    def parts(self) -> int:
        return self.config.parallelism.tensor

    @override
    def part(self, model: nn.Module) -> nn.Module:
        model.to(self.device)
        plan, axis = plan_of(model, self.task.tensor_plan), self._mesh.axis(TENSOR)
        if self.config.parallelism.sequence:
            cut_sequences(chain_of(model), plan, axis)
        else:
            cut_layers(model, plan, axis)
        if self.config.activation_checkpointing:
            recompute(blocks_of(model))
        return model

    @override
    def cut_axis(self) -> dist.ProcessGroup:
        return self._mesh.ranks(TENSOR)

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, batch.share.own / batch.share.total)
        if self.config.parallelism.sequence:
            complete(self.model.parameters(), self._mesh.ranks(TENSOR))
        if self._mesh.spot.replicas > 1:
            add_up(self.model.parameters(), self._mesh.ranks(DATA))
        self.update()
        return loss

    @override
    def evaluation_model(self) -> nn.Module:
        """Ranks that share layers see the same samples. Buffers are each rank's own; rank 0's count."""
        self.group.equalise(self.model.buffers())
        return self.model


def plan_of(model: nn.Module, given: Mapping[str, str]) -> dict[str, str]:
    """How each linear layer is cut: as the task says, else every pair in an nn.Sequential with only activations between.

    Raises TaskError when nothing would be cut.
    """
    if not given:
        plan = dict(_pairs(model))
        if not plan:
            raise TaskError(
                "Task: tensor parallelism finds no pair of nn.Linear in an nn.Sequential to cut: say it with "
                "tensor_plan={'blocks.*.up': 'column', 'blocks.*.down': 'row'}"
            )
        return plan
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))]
    plan = {}
    for pattern, way in given.items():
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise TaskError(f"Task: tensor_plan names {pattern!r}, but no nn.Linear or nn.Embedding is called so")
        plan |= dict.fromkeys(found, way)
    return plan


def cut_layers(model: nn.Module, plan: Mapping[str, str], mesh: DeviceMesh, inside: Sequence[str] = ("",)) -> None:
    """In place; only layers whose name begins with one of `inside`. All ranks have equal values, so nothing is sent."""
    styles: dict[str, ParallelStyle] = {}
    for name, way in plan.items():
        if not any(name == part or not part or name.startswith(f"{part}.") for part in inside):
            continue
        require_even(name, model.get_submodule(name), way, mesh.size())
        styles[name] = ColwiseParallel() if way == COLUMN else RowwiseParallel()
    parallelize_module(model, mesh, styles, src_data_rank=None)


def _pairs(model: nn.Module) -> Iterable[tuple[str, str]]:
    for name, module in model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        first: str | None = None
        for key, child in module.named_children():
            own = f"{name}.{key}" if name else key
            if isinstance(child, nn.Linear):
                if first is not None:
                    yield from ((first, COLUMN), (own, ROW))
                first = own if first is None else None
            elif not isinstance(child, _BETWEEN):
                first = None
