"""A whole model with its optimizer on one rank: what every strategy has in which each rank can train alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.checkpoint.manifest import Fingerprint, ParameterShape
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.groups import Group
from disttrain_runtime.guard import require_finite
from disttrain_runtime.precision import Precision
from disttrain_runtime.strategies.blocks import blocks_of, recompute
from disttrain_runtime.strategies.microbatch import Microbatch, microbatches
from disttrain_runtime.strategies.strategy import Strategy
from disttrain_runtime.task import Task, call


class Replica(Strategy):
    """Forward and backward over a batch, one update, and how to take a step back."""

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        self.precision = Precision(config.precision, device)
        self._group: Group | None = None
        self._before: dict[str, Tensor] = {}
        """The buffers as they were before the step under way."""
        self.adopt(self.at_first(task.model))

    def at_first(self, model: nn.Module) -> nn.Module:
        """What to train, made of the task's model, before there is a group."""
        model = model.to(self.device)
        if self.config.activation_checkpointing:
            recompute(blocks_of(model))
        return model

    def adopt(self, model: nn.Module) -> None:
        """Train this model from now on, with an optimizer and a schedule that have not stepped."""
        self.model = model.train()
        self._hook = self.model.register_forward_pre_hook(self._forward_begins)
        self.optimizer = self.task.optimizer(self.model.parameters())
        self.schedule = self.task.schedule(self.optimizer) if self.task.schedule else None

    @override
    def join(self, group: Group) -> None:
        _check_batch_norm(self.task, group, self.config.accumulate)
        self._group = group

    @override
    def equalise(self) -> None:
        self.group.equalise(t for t in self.model.state_dict().values() if isinstance(t, Tensor))

    @property
    @override
    def group(self) -> Group:
        """The present one."""
        assert self._group is not None, "join a group first"
        return self._group

    def passes(self, batch: Batch) -> Iterable[Microbatch]:
        """What goes through the model one after the other."""
        return microbatches(batch, self.config.accumulate)

    @property
    def forward_model(self) -> nn.Module:
        """What the inputs go through in training."""
        return self.model

    def backward(self, batch: Batch, share_of: float) -> Tensor:
        """Gradients of the batch's mean loss times `share_of`, added to those that are there. Gives the mean loss.

        With `share_of` = own × ranks / total the mean over the ranks is the gradient of the global batch's mean loss.
        """
        mean = torch.zeros((), device=self.device)
        self._keep_buffers()
        for micro in self.passes(batch):
            with nullcontext() if micro.last else self.unsynchronised():
                loss = self.loss(micro)
                require_finite(loss, batch.share.step, self.group.rank)
                self.enter(Phase.BACKWARD)
                torch.autograd.backward(self.precision.scaled(loss * (micro.part * share_of)))
            mean += loss.detach() * micro.part
        return mean

    def update(self) -> bool:
        """One step of optimizer and schedule with the gradients that are there. False: it was left out, they overflowed."""
        self.before_update()
        self.enter(Phase.UPDATING)
        taken = self.precision.update(self.optimizer, self.config.max_grad_norm, self.model.parameters())
        if self.schedule is not None:
            self.schedule.step()
        self._before = {}
        return taken

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Inside, backward passes add up gradients and exchange nothing."""
        return nullcontext()

    def loss(self, batch: Batch | Microbatch) -> Tensor:
        """Of a part of the batch, with its graph."""
        self.enter(Phase.SYNCHRONISING)
        with self.precision.forward():
            loss = self.task.loss(call(self.forward_model, batch.inputs), batch.targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
            raise TaskError(
                f"Task: loss must give a scalar tensor that depends on the parameters, got {_describe(loss)}"
            )
        return loss

    @override
    def undo(self) -> None:
        for name, value in self.model.named_buffers():
            if name in self._before:
                value.copy_(self._before[name])
        self._before = {}
        self.optimizer.zero_grad(set_to_none=True)

    def _keep_buffers(self) -> None:
        """A forward pass changes batch statistics; parameters change only when all gradients have arrived."""
        self._before = {name: value.clone() for name, value in self.model.named_buffers()}

    @override
    def state(self) -> Mapping[str, Any]:
        state = {"model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict()}
        state |= {"schedule": self.schedule.state_dict()} if self.schedule is not None else {}
        return state | self.precision.state()

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self._before = {}
        self.optimizer.zero_grad(set_to_none=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.precision.load(state)

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
        """Called after what a wrapper around the model does first: what comes now waits for nobody."""
        if self.model.training:
            self.enter(Phase.FORWARD)


def _check_batch_norm(task: Task, group: Group, accumulate: int) -> None:
    """It fails on a single sample, and the smallest batch comes at the end of an epoch: say so before the first step."""
    smallest = len(task.train_data) % task.batch_size or task.batch_size
    least = smallest // group.world_size // accumulate
    if least < 2 and any(isinstance(m, _BatchNorm) for m in task.model.modules()):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise TaskError(
            f"Task: batch normalisation needs 2 samples per rank, but the smallest batch has {smallest} for {group.world_size} ranks{parts} "
            f"({len(task.train_data)} samples in batches of {task.batch_size}): choose another batch_size"
        )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe(loss: object) -> str:
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    return f"one of shape {tuple(loss.shape)}" if loss.dim() else "one without a gradient"
