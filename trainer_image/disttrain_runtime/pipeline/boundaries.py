"""What passes from one run of layers to the next: shapes and dtypes, found without computing anything.

torch would find them by running the first microbatch twice and sending pickled descriptions. That would draw random numbers which
an uninterrupted run has not drawn. Every rank knows all layers, so each finds them by itself, on tensors without memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from disttrain_runtime.errors import TaskError
from disttrain_runtime.pipeline.stage import Values, as_tuple, run_layers

Boundary = tuple[Tensor, ...]
"""Tensors without memory, of the right shape, dtype and need for a gradient."""
_NOWHERE = torch.device("meta")


def without_memory(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Copies that know their shapes, and nothing else."""
    return [copy.deepcopy(layer).to(_NOWHERE) for layer in layers]


def boundaries(runs: Sequence[Sequence[nn.Module]], inputs: Any) -> list[Boundary]:
    """After each run of layers without memory, for inputs like these. The dtypes are those without autocast: nothing is lost."""
    found: list[Boundary] = []
    with _NOWHERE:
        value: Any = _imagined(inputs)
        for number, run in enumerate(runs):
            value = run_layers(run, value)
            found.append(tuple(_told(t, number) for t in as_tuple(value)))
    return found


def signature(value: Any) -> Values:
    """Equal for inputs that lead to equal boundaries."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return tuple((k, signature(v)) for k, v in sorted(value.items()))
    return tuple(map(signature, value)) if isinstance(value, (list, tuple)) else (type(value),)


def _imagined(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_like(value, device=_NOWHERE)
    if isinstance(value, dict):
        return {k: _imagined(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_imagined, value))
    return type(value)(map(_imagined, value)) if isinstance(value, (list, tuple)) else value


def _told(value: Any, run: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise TaskError(
            f"Task: run {run} of the pipeline's layers gives a {type(value).__name__}: what passes between stages, and the model's "
            f"outputs, must be a tensor or a tuple of tensors"
        )
    return torch.empty_like(value, requires_grad=value.requires_grad)
