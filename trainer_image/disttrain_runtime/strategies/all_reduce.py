"""Gradients are averaged over all ranks in every step: torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
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
    """Replicas that start equal and stay equal.

    DDP is made once, in a group of this process alone, and moves from group to group: what it has learnt about the
    order of the gradients outlives a failure, and a replacement learns it before it is needed.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        self.model = task.model.to(device).train()
        self.model.register_forward_pre_hook(self._forward_begins)
        self.optimizer = task.optimizer(self.model.parameters())
        self.schedule = task.schedule(self.optimizer) if task.schedule else None
        self._replica: DistributedDataParallel | None = None
        self._group: Group | None = None
        self._before: dict[str, Tensor] = {}
        """The buffers as they were before the step under way."""

    @override
    def rehearse(self, batch: Batch) -> None:
        """Let DDP see the order of the gradients before the first step that counts.

        DDP lays its buckets out anew after its first backward pass, and the order in which three or more ranks' values
        are added depends on the place in the bucket. Without a rehearsal the first step after a restart would
        differ in the last bit from the same step of an uninterrupted run. `_rebuild_buckets` is what its next forward
        pass would begin with.
        """
        devices = [self.device] if self.device.type == "cuda" else None
        self._replica = DistributedDataParallel(
            self.model, device_ids=devices, gradient_as_bucket_view=True, init_sync=False
        )
        self._keep_buffers()
        torch.autograd.backward(self._loss(batch))
        self._replica.reducer._rebuild_buckets()
        self._undo()

    @override
    def join(self, group: Group) -> None:
        _check_batch_norm(self.task, group)
        self._group = group
        self._undo()
        self.replica._update_process_group(dist.group.WORLD)  # type: ignore[no-untyped-call]

    @override
    def equalise(self) -> None:
        self.group.equalise(t for t in self.model.state_dict().values() if isinstance(t, Tensor))

    @override
    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        self._keep_buffers()
        loss = self._loss(batch)
        require_finite(loss, batch.share.step, self.group.rank)
        self.enter(Phase.BACKWARD)
        torch.autograd.backward(loss * batch.share.weight(self.group.world_size))
        self.enter(Phase.UPDATING)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self._before = {}
        return loss.detach()

    @property
    def group(self) -> Group:
        """The present one."""
        assert self._group is not None, "join a group first"
        return self._group

    @property
    def replica(self) -> DistributedDataParallel:
        """The model, as it trains together with the others'."""
        assert self._replica is not None, "rehearse first"
        return self._replica

    def _keep_buffers(self) -> None:
        """A forward pass changes batch statistics; parameters change only when all gradients have arrived."""
        self._before = {name: value.clone() for name, value in self.model.named_buffers()}

    def _undo(self) -> None:
        for name, value in self.model.named_buffers():
            if name in self._before:
                value.copy_(self._before[name])
        self._before = {}
        self.optimizer.zero_grad(set_to_none=True)

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
