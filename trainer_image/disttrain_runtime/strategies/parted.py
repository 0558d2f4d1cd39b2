"""A model of which a rank holds a part: what pipeline, FSDP and tensor parallel have in common.

The task's model stays on the CPU as it was built: a group that has no checkpoint starts from it again. Each group makes its own
parts of a copy. Tensors of other stages have no memory (device `meta`), get no gradient, and the optimizer passes them by: so its
state has the same names in every split, and a checkpoint is the whole model's, whoever held what.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from typing_extensions import override

from disttrain_contract.stall import Phase
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.data import Batch
from disttrain_runtime.errors import TaskError
from disttrain_runtime.precision import Precision
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.survivors import collect
from disttrain_runtime.task import Task

_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


class Parted(Replica):
    """A rank dies and takes its part along: see `buddies`."""

    sharded = True

    def __init__(self, task: Task, config: StrategyConfig, device: torch.device) -> None:
        self._layout: Mapping[str, Any] = {}
        self._ready = self._overflowed = False
        super().__init__(task, config, device)
        self._hook.remove()  # or each copy of the task's model would bring a copy of all this along

    @override
    def at_first(self, model: nn.Module) -> nn.Module:
        return model

    @override
    def rehearse(self, batch: Batch) -> None:
        """The parts are known only in a group."""

    @abstractmethod
    def part(self, model: nn.Module) -> nn.Module:
        """Keep this rank's part of a copy of the model, on its device. A collective."""

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many ranks of the present group hold a whole model together: rank r holds part r modulo this."""

    def cuts(self) -> Mapping[str, Any]:
        """What else decides which rank holds what: plain values."""
        return {}

    def follow(self, layout: Mapping[str, Any]) -> None:
        """Cut the next model as this layout says, if ranks could come to another one by themselves."""

    def layout(self) -> Mapping[str, Any]:
        """How the model that is here was cut."""
        return self._layout

    def _cut_anew(self) -> None:
        """Begin with this rank's part of a copy of the task's model. A collective."""
        self.precision = Precision(self.config.precision, self.device)
        self.adopt(self.part(copy.deepcopy(self.task.model)))
        self._ready = False
        self._layout = {"parts": self.parts, **self.cuts()}

    @property
    def donor(self) -> bool:
        """Whether rank 0 needs this rank's part for a whole state, once parts of a tensor are put together."""
        return self.group.leads

    @override
    def equalise(self) -> None:
        self.group.equalise(t for t in self.task.model.state_dict().values() if isinstance(t, Tensor))
        self._cut_anew()

    @override
    def state(self) -> Mapping[str, Any]:
        """Nothing is alike on all ranks; see `whole`."""
        return {}

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("parts are loaded from a whole state")

    @override
    def whole(self) -> Mapping[str, Any]:
        keep = self.donor
        model = {name: _joined(tensor, keep=keep) for name, tensor in self._tensors().items()}
        moments = {
            index: {name: _joined(value, keep=keep) for name, value in entry.items()}
            for index, entry in self._moments().items()
        }
        parts = collect({"model": model, "optimizer": moments} if keep else {"model": {}, "optimizer": {}}, self.group)
        return self._put_together(parts) if self.group.leads else {}

    def _put_together(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """In the order of a model that was never split."""
        model = {name: tensor for part in parts for name, tensor in part["model"].items()}
        moments = {index: entry for part in parts for index, entry in part["optimizer"].items()}
        state: dict[str, Any] = {
            "model": {name: model[name] for name in self.task.model.state_dict()},
            "optimizer": {**self.optimizer.state_dict(), "state": dict(sorted(moments.items()))},
            **self.precision.state(),
        }
        return state | ({"schedule": self.schedule.state_dict()} if self.schedule is not None else {})

    @override
    def load_whole(self, whole: Mapping[str, Any]) -> None:
        self._cut_anew()
        for name, tensor in self._tensors().items():
            _place(tensor, whole["model"][name])
        parameters = self._parameters()
        entries = whole["optimizer"]["state"]
        mine = {i: _parted(entry, parameters[i]) for i, entry in entries.items() if i in parameters}
        self.optimizer.load_state_dict({**whole["optimizer"], "state": mine})
        if self.schedule is not None:
            self.schedule.load_state_dict(whole["schedule"])
        self.precision.load(whole)

    def part_state(self) -> dict[str, Any]:
        """What this rank holds, with the live tensors, as they lie here: no rank is asked."""
        moments = {i: {name: _plain(v) for name, v in entry.items()} for i, entry in self._moments().items()}
        state: dict[str, Any] = {
            "model": {name: _local(tensor) for name, tensor in self._tensors().items()},
            "optimizer": {**self.optimizer.state_dict(), "state": moments},
            **self.precision.state(),
        }
        return state | ({"schedule": self.schedule.state_dict()} if self.schedule is not None else {})

    def load_part(self, part: Mapping[str, Any]) -> None:
        """Become what `part_state` said on a rank that held the same part of an equal cut. A collective."""
        self._cut_anew()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                _local(tensor).copy_(part["model"][name])
        parameters = self._parameters()
        entries = part["optimizer"]["state"]
        mine = {i: {name: _joined_to(v, parameters[i]) for name, v in entry.items()} for i, entry in entries.items()}
        self.optimizer.load_state_dict({**part["optimizer"], "state": mine})
        if self.schedule is not None:
            self.schedule.load_state_dict(part["schedule"])
        self.precision.load(part)

    @override
    def undo(self) -> None:
        self._ready = False
        super().undo()

    @override
    def update(self) -> bool:
        """The loop lets all ranks wait for each other in `before_update`. So once one of them has updated its part, none lacks
        anything to update its own: who is broken off while it waits can still do it (`complete`)."""
        self._overflowed = self._overflows()
        if self.config.max_grad_norm is not None and not self._overflowed:
            self.enter(Phase.BACKWARD)
            self._clip(self.config.max_grad_norm)
        self._ready = True
        self.before_update()
        self.complete()
        return not self._overflowed

    def _overflows(self) -> bool:
        """Gradients lose the loss's scale. Whether those of any part of the model overflowed: then no rank takes the step."""
        if self.config.precision != "fp16":
            return False
        self.enter(Phase.BACKWARD)
        sound = self.precision.true_gradients(_local(p.grad) for p in self.model.parameters() if p.grad is not None)
        return bool(self.group.agree([not sound])[0])

    @property
    def ready(self) -> bool:
        """Broken off with all that an update needs, and before it."""
        return self._ready

    def complete(self) -> None:
        """Update this rank's part. Asks nobody."""
        self.enter(Phase.UPDATING)
        self._ready = False
        if not self._overflowed:
            self.optimizer.step()
        self.precision.settle(self._overflowed)
        if self.schedule is not None:
            self.schedule.step()
        self._before = {}

    def norm_axes(self) -> Sequence[dist.ProcessGroup]:
        """Groups over which the model's parameters are spread whole, not cut."""
        return ()

    def cut_axis(self) -> dist.ProcessGroup | None:
        """The group over which single parameters are cut."""
        return None

    def _clip(self, limit: float) -> None:
        """By the norm of the whole model's gradient. Squares are added up parameter by parameter, in the model's order.

        So the last bit does not depend on who holds what.
        """
        parameters = list(self.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = torch.zeros(2, len(parameters), dtype=torch.float64, device=self.device)
        for number, gradient in enumerate(p.grad for p in parameters):
            if gradient is not None:
                squares[int(_is_cut(gradient)), number] = _local(gradient).double().square().sum()
        plain, cut = squares
        if (axis := self.cut_axis()) is not None:
            dist.all_reduce(cut, group=axis)
        plain += cut
        for group in self.norm_axes():
            dist.all_reduce(plain, group=group)
        factor = (limit / (plain.sum().sqrt() + _EPSILON)).clamp(max=1.0)
        for gradient in gradients:
            _local(gradient).mul_(factor.to(gradient.dtype))

    @override
    def replicated(self) -> Sequence[Tensor]:
        return ()

    @override
    def held(self) -> Sequence[Tensor]:
        return [_local(p) for p in self.model.parameters() if not p.is_meta]

    def _tensors(self) -> dict[str, Tensor]:
        """The model's, as far as they are here."""
        held = self.model.state_dict()
        return {name: value for name, value in held.items() if isinstance(value, Tensor) and not value.is_meta}

    def _moments(self) -> dict[int, dict[str, Any]]:
        """The optimizer's state of the parameters that are here."""
        here = self._parameters()
        return {i: entry for i, entry in self.optimizer.state_dict()["state"].items() if i in here}

    def _parameters(self) -> dict[int, nn.Parameter]:
        """By their number in the optimizer, which is the same in every split."""
        ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
        return {i: p for i, p in enumerate(ordered) if not p.is_meta}


def add_up(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Gradients become their sums over a group: one all-reduce for each dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(_local(parameter.grad))
    for gradients in by_dtype.values():
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat, group=group)
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _plain(value: Any) -> Any:
    return _local(value) if isinstance(value, Tensor) else value


def _joined_to(value: Any, parameter: nn.Parameter) -> Any:
    """The inverse, for a parameter's moment, in memory of its own: an optimizer keeps what it is given."""
    if not isinstance(value, Tensor):
        return value
    mine = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor) or value.shape != _local(parameter).shape:
        return mine
    return DTensor.from_local(
        mine,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _is_cut(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and any(p.is_shard() for p in tensor.placements)


def _joined(value: Any, *, keep: bool) -> Any:
    """A tensor from its parts. A collective of those that hold them."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if keep else None


def _place(mine: Tensor, whole: Tensor) -> None:
    with torch.no_grad():
        _local(mine).copy_(_local(_like(whole, mine)))


def _like(whole: Tensor, parted: Tensor) -> Tensor:
    """This rank's part of a tensor that all have; nothing is sent."""
    if not isinstance(parted, DTensor):
        return whole
    there = whole.to(parted.device)
    return distribute_tensor(there, parted.device_mesh, parted.placements, src_data_rank=None)


def _parted(entry: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    """Moments are cut as their parameter is."""
    cut = isinstance(parameter, DTensor)
    for name, value in entry.items():
        if cut and isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            raise TaskError(
                f"Task: the optimizer keeps {name!r} of another shape than its parameter's: it cannot be cut; "
                f"use one whose state is element by element (SGD, Adam, AdamW), or leave tensor and shard out"
            )
    return {
        name: _like(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in entry.items()
    }
