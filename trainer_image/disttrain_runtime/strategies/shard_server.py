"""What a parameter server does with its part of the model: add up, update. No threads, no messages.

It computes in memory of the CPU, where the messages arrive, beside whatever device the model trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_runtime.task import Task

Total = Callable[[float], float]
"""A number of this server → its sum over all servers."""
_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


class ShardServer:
    """Owns some parameters, and the optimizer's state that belongs to them."""

    def __init__(self, task: Task, model: nn.Module, own: Sequence[nn.Parameter], max_norm: float | None) -> None:
        self._max_norm = max_norm
        mine = {id(parameter) for parameter in own}
        # The optimizer may treat parameters by their shape or place, so it sees all; those of others have no memory.
        held = {id(p): _like(p, "cpu" if id(p) in mine else "meta") for p in model.parameters()}
        self._optimizer = task.optimizer(iter(held.values()))
        self._schedule = task.schedule(self._optimizer) if task.schedule else None
        self._own = [held[id(parameter)] for parameter in own]
        self._names = {name: held[id(p)] for name, p in model.named_parameters() if id(p) in mine}
        order = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._slots = frozenset(i for i, p in enumerate(order) if not p.is_meta)
        """Where the optimizer's state has those parameters."""
        self._sum: Tensor | None = None

    def add(self, gradient: Tensor) -> None:
        """One rank's gradient of this step; the first one's tensor is ours until the update."""
        self._sum = gradient if self._sum is None else self._sum.add_(gradient)

    def update(self, ranks: int, total: Total, into: Tensor) -> None:
        """All are there. Puts the new parameters into a row."""
        assert self._sum is not None, "add first"
        gradient, self._sum = self._sum.div_(ranks), None
        if self._max_norm is not None:
            norm = total(float(gradient.double().square().sum())) ** 0.5
            gradient *= min(1.0, self._max_norm / (norm + _EPSILON))
        for parameter, part in zip(self._own, cut(gradient, self._own), strict=True):
            parameter.grad = part.to(parameter.dtype)
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        for parameter in self._own:
            parameter.grad = None
        flat(self._own, into)

    def state(self) -> Mapping[str, Any]:
        """Of the optimizer, and of the schedule, which all servers have alike."""
        state: dict[str, Any] = {"optimizer": self._optimizer.state_dict()}
        return state | ({"schedule": self._schedule.state_dict()} if self._schedule is not None else {})

    def load(self, state: Mapping[str, Any]) -> None:
        """This part of a whole state."""
        for name, parameter in self._names.items():
            parameter.data.copy_(state["model"][name])
        optimizer = state["optimizer"]
        slots = {index: slot for index, slot in optimizer["state"].items() if index in self._slots}
        self._optimizer.load_state_dict({**optimizer, "state": slots})
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])


def flat(tensors: Sequence[Tensor], into: Tensor) -> None:
    """In one row, on the CPU."""
    torch.cat([tensor.detach().reshape(-1).cpu() for tensor in tensors], out=into)


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Of a row that holds them all."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))


def cut(row: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse."""
    parts = torch.split(row, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _like(parameter: nn.Parameter, device: str) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=parameter.requires_grad)
