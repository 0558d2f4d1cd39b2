"""Gradients are averaged over all ranks in every step: torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_runtime.checkpoint.manifest import Fingerprint, ParameterShape
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.guard import require_finite
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.task import Task, call


class AllReduce(Strategy):
    """Replicas that start equal and stay equal."""

    def __init__(self, task: Task, group: Group) -> None:
        self.task, self.group = task, group
        _check_batch_norm(task, group)
        self.model = task.model.to(group.device).train()
        self.model.register_forward_pre_hook(self._forward_begins)
        devices = [group.device] if group.device.type == "cuda" else None
        self.replica = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)
        self.optimizer = task.optimizer(self.model.parameters())
        self.schedule = task.schedule(self.optimizer) if task.schedule else None

    @override
    def rehearse(self, batch: Batch) -> None:
        """Let DDP see the order of the gradients before the first step that counts.

        DDP lays its buckets out anew after its first backward pass, and the order in which three or more ranks' values
        are added depends on the place in the bucket. Without a rehearsal the first step after a restart would
        differ in the last bit from the same step of an uninterrupted run.
        """
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        loss = self._loss(batch)
        self.enter(Phase.BACKWARD)
        torch.autograd.backward(loss)
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        require_finite(loss, batch.share.step, self.group.rank)
        self.enter(Phase.BACKWARD)
        torch.autograd.backward(loss * batch.share.weight(self.group.world_size))
        self.enter(Phase.UPDATING)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss.detach()

    @override
    def state(self) -> Mapping[str, Any]:
        state = {"model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict()}
        return state | ({"schedule": self.schedule.state_dict()} if self.schedule is not None else {})

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    @override
    def replicated(self) -> Sequence[Tensor]:
        return list(self.model.parameters())

    @override
    def fingerprint(self) -> Fingerprint:
        tensors = {name: value for name, value in self.model.state_dict().items() if isinstance(value, Tensor)}
        return Fingerprint(
            parameters=tuple(
                ParameterShape(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()
            ),
            optimizer=_kind(self.optimizer),
            schedule=_kind(self.schedule) if self.schedule is not None else "",
        )

    @override
    def evaluation_model(self) -> nn.Module:
        """Buffers (batch statistics) differ between ranks until the next forward pass: rank 0's count."""
        self.group.equalise(self.model.buffers())
        return self.model

    def _forward_begins(self, *_: object) -> None:
        """Called after DDP has fetched rank 0's buffers: what comes now waits for nobody."""
        if self.model.training:
            self.enter(Phase.FORWARD)

    def _loss(self, batch: Batch) -> Tensor:
        self.enter(Phase.SYNCHRONISING)
        loss = self.task.loss(call(self.replica, batch.inputs), batch.targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
            raise TaskError(
                f"Task: loss must give a scalar tensor that depends on the parameters, got {_describe(loss)}"
            )
        return loss


def _check_batch_norm(task: Task, group: Group) -> None:
    """It fails on a single sample, and the smallest batch comes at the end of an epoch: say so before the first step."""
    smallest = len(task.train_data) % task.batch_size or task.batch_size
    if smallest // group.world_size < 2 and any(isinstance(m, _BatchNorm) for m in task.model.modules()):
        raise TaskError(
            f"Task: batch normalisation needs 2 samples per rank, but the smallest batch has {smallest} for {group.world_size} ranks "
            f"({len(task.train_data)} samples in batches of {task.batch_size}): choose another batch_size"
        )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe(loss: object) -> str:
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    return f"one of shape {tuple(loss.shape)}" if loss.dim() else "one without a gradient"
