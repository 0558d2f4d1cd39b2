"""The layers are spread over ranks, and microbatches pass through them: torch.distributed.pipelining.

A step is that of one process: the gradient is the sum over the microbatches of each one's mean loss times its share of the global
batch. Replicas of a stage (the data axis) add their gradients up when all microbatches are through. Bytes a rank sends each
step: 2 × activations of its boundaries (there and back), and 2 (D - 1) / D × its parameters with D replicas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.guard import require_finite
from disttrain_runtime.pipeline.balance import CHUNKS, Run, balanced, explicit, home, require_layers
from disttrain_runtime.pipeline.boundaries import Boundary, boundaries, signature, without_memory
from disttrain_runtime.pipeline.cost import measure
from disttrain_runtime.pipeline.pieces import Piece, outputs_of, pieces
from disttrain_runtime.pipeline.relay import Relay
from disttrain_runtime.pipeline.schedules import Schedule, make_schedule
from disttrain_runtime.pipeline.stage import Chunk, Stage
from disttrain_runtime.sampler import split
from disttrain_runtime.strategies.blocks import chain_of, recompute
from disttrain_runtime.strategies.mesh import DATA, STAGE, TENSOR, Mesh, spot_of
from disttrain_runtime.strategies.microbatch import microbatches
from disttrain_runtime.strategies.parted import Parted, add_up
from disttrain_runtime.strategies.sequence import complete, cut_sequences
from disttrain_runtime.strategies.strategy import Seat
from disttrain_runtime.strategies.tensor import cut_layers, plan_of
from disttrain_runtime.task import Task

_PER_STAGE = 4
"""Microbatches for each stage, if the job does not say: a bubble of a fifth at most (see schedules)."""


class Pipeline(Parted):
    """Pipeline × data × tensor."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self._plan = config.parallelism
        self._count = self._plan.microbatches or _PER_STAGE * self._plan.stages
        self._whole = [layer for _, layer in chain_of(task.model)]
        self._shapes = without_memory(self._whole)
        self._names = [name for name, _ in chain_of(task.model)]
        self._runs = CHUNKS[self._plan.schedule] * self._plan.stages
        self._bounds: list[Run] = explicit(self._names, self._plan.split, self._runs) if self._plan.split else []
        require_layers(len(self._names), self._runs)
        self._chunks: dict[int, Chunk] = {}
        self._costs: list[float] = []
        self._told: list[Run] = []
        """Where the layers were cut in the group that this one goes on from."""
        self._schedules: dict[Any, Schedule] = {}
        self._losses: list[Tensor] = []

    @override
    def rehearse(self, batch: Batch) -> None:
        """What do the layers cost? Nobody needs to know who has said already where to cut."""
        if not self._plan.split:
            first = next(microbatches(batch, self._count))
            self._costs = measure(self._whole, first.inputs, self.device)

    @override
    def join(self, group: Group) -> None:
        self._group = group
        spot = spot_of(group.rank, group.world_size, self._plan.stages, self._plan.tensor)
        _check_batch_norm(self.task, spot.replicas, self._count)  # before a collective: each rank says it by itself
        self._mesh = Mesh(group, self._plan.stages, self._plan.tensor)
        self._told = []

    @property
    @override
    def parts(self) -> int:
        return self._plan.stages * self._plan.tensor

    @override
    def cuts(self) -> Mapping[str, Any]:
        return {"bounds": self._bounds}

    @override
    def follow(self, layout: Mapping[str, Any]) -> None:
        self._told = [(first, end) for first, end in layout["bounds"]]

    @property
    @override
    def seat(self) -> Seat:
        spot = self._mesh.spot
        last = spot.stage == self._home(self._runs - 1)
        return Seat(spot.replica, spot.replicas, spot.replica, speaks=last and spot.shard == 0)

    @property
    @override
    def donor(self) -> bool:
        return self._mesh.spot.replica == 0 and self._mesh.spot.shard == 0

    @override
    def norm_axes(self) -> Sequence[dist.ProcessGroup]:
        return (self._mesh.ranks(STAGE),)

    @override
    def cut_axis(self) -> dist.ProcessGroup | None:
        return self._mesh.ranks(TENSOR) if self._plan.tensor > 1 else None

    @override
    def part(self, model: nn.Module) -> nn.Module:
        self._bounds = self._agree_on_bounds()
        self._chunks, self._schedules = {}, {}
        layers = [layer for _, layer in chain_of(model)]
        for number, (first, end) in enumerate(self._bounds):
            run = layers[first:end]
            if self._home(number) != self._mesh.spot.stage:
                for layer in run:
                    layer.to("meta")
                continue
            for layer in run:
                layer.to(self.device)
            if self._plan.tensor > 1:
                plan, axis = plan_of(self.task.model, self.task.tensor_plan), self._mesh.axis(TENSOR)
                if self._plan.sequence:
                    cut_sequences(chain_of(model)[first:end], plan, axis)
                else:
                    cut_layers(model, plan, axis, self._names[first:end])
            if self.config.activation_checkpointing:
                recompute(run)
            self._chunks[number] = Chunk(run, first, self.precision)
        return model

    def _agree_on_bounds(self) -> list[Run]:
        """What rank 0 measured counts: clocks differ."""
        if self._plan.split or self._told:
            return self._told or self._bounds
        said = self.group.broadcast(json.dumps(self._costs).encode() if self.group.leads else None)
        return balanced(json.loads(said), self._runs)

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        self._keep_buffers()
        cut = pieces(batch, self._count)
        schedule = self._schedule(cut)
        for chunk in self._chunks.values():
            chunk.feed, chunk.luck = [piece.inputs for piece in cut], torch.initial_seed()
        self._losses, self._step = [], batch.share.step
        numbers = [(torch.tensor([number]),) for number in range(self._count)]
        schedule.step(arg_mbs=numbers, target_mbs=cut, return_outputs=False)
        if self._plan.sequence:
            complete((p for p in self.model.parameters() if not p.is_meta), self._mesh.ranks(TENSOR))
        if self._mesh.spot.replicas > 1:
            add_up((p for p in self.model.parameters() if not p.is_meta), self._mesh.ranks(DATA))
        self.update()
        total = torch.stack(self._losses).sum() if self._losses else torch.zeros((), device=self.device)
        return total * (batch.share.total / batch.share.own) if batch.share.own else total

    def _loss(self, outputs: Any, piece: Piece) -> Tensor:
        """On the last run of layers, of one microbatch."""
        if not piece.counted:
            first: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
            return first[:0].sum()
        with self.precision.forward():
            loss = self.task.loss(outputs_of(piece, outputs), piece.targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
            raise TaskError("Task: loss must give a scalar tensor that depends on the parameters")
        require_finite(loss, self._step, self.group.rank)
        weighted = loss * piece.weight
        self._losses.append(weighted.detach())
        return self.precision.scaled(weighted)

    def _schedule(self, cut: Sequence[Piece]) -> Schedule:
        """One for each shape of microbatch: buffers are made once."""
        key = signature(cut[0].inputs)
        if key not in self._schedules:
            between = self._between(cut[0].inputs)
            group = self._mesh.ranks(STAGE)
            number = (torch.empty(1, dtype=torch.int64, device="meta"),)
            stages = [
                Stage(chunk, n, self._runs, between[n - 1] if n else number, between[n], self.device, group, self.enter)
                for n, chunk in sorted(self._chunks.items())
            ]
            self._schedules[key] = make_schedule(self._plan.schedule, stages, self._count, self._loss)
        return self._schedules[key]

    def _between(self, inputs: Any) -> list[Boundary]:
        """What passes from run to run; the runs that are here cast to it."""
        found = boundaries([self._shapes[a:b] for a, b in self._bounds], inputs)
        for number, chunk in self._chunks.items():
            chunk.dtypes = [t.dtype for t in found[number]]
        return found

    @override
    def evaluation_model(self) -> nn.Module:
        """Outputs come out of the last run of layers only; `seat` says who has it."""
        homes = [self._home(number) for number in range(self._runs)]
        return Relay(self._chunks, homes, self._mesh.ranks(STAGE), self.device, self._between)

    def _home(self, number: int) -> int:
        return home(number, self._plan.stages, self._plan.schedule)


def _check_batch_norm(task: Task, replicas: int, count: int) -> None:
    """Its statistics would count the samples that fill up a microbatch."""
    if not any(isinstance(m, _BatchNorm) for m in task.model.modules()):
        return
    sizes = {task.batch_size, len(task.train_data) % task.batch_size or task.batch_size}
    shares = {end - first for size in sizes for first, end in (split(size, r, replicas) for r in range(replicas))}
    if any(share % count or share < 2 * count for share in shares):
        raise TaskError(
            f"Task: batch normalisation in a pipeline needs {count} equal microbatches of 2 samples or more in every step, but replicas get "
            f"{', '.join(map(str, sorted(shares)))} samples: choose batch_size and pipeline.microbatches so that they divide, or layer normalisation"
        )
