"""What each layer costs, measured: forward and backward over one microbatch."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_runtime.data import to_device
from disttrain_runtime.task import call

_REPEATS = 3
"""The least of three: what disturbs a measurement only makes it longer."""


def measure(layers: Sequence[nn.Module], inputs: Any, device: torch.device) -> list[float]:
    """Seconds for each layer. One layer at a time is on the device, as a copy: nothing changes the model."""
    costs: list[float] = []
    value = inputs
    for layer in layers:
        trial = copy.deepcopy(layer).to(device).train()
        costs.append(min(_seconds(trial, value, device) for _ in range(_REPEATS)))
        with torch.no_grad():
            value = to_device(call(trial, value), device)
    return costs


def _seconds(layer: nn.Module, value: Any, device: torch.device) -> float:
    given = _with_gradient(value)
    began = _now(device)
    outputs = [t for t in _tensors(call(layer, given)) if t.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    return _now(device) - began


def _with_gradient(value: Any) -> Any:
    """In a pipeline gradients flow into whatever came from the layer before."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.is_floating_point())
    return tuple(map(_with_gradient, value)) if isinstance(value, tuple) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in _tensors(item)] if isinstance(value, tuple) else []


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
