"""The layers of a model: where it can be cut, and what can be recomputed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from disttrain_runtime.errors import TaskError

STAGES = "stages"
"""A model that is no nn.Sequential may have a method of this name: its modules in the order in which one feeds the next."""


def chain_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model as modules of which each feeds the next, by name. Raises TaskError when it is no such chain."""
    given = getattr(model, STAGES, None)
    if callable(given):
        parts = list(given())
    elif isinstance(model, nn.Sequential):
        parts = list(model)
    else:
        raise TaskError(
            f"Task: a pipeline cuts a chain of layers, but the model is a {type(model).__name__}: make it an nn.Sequential, "
            f"or give it a method {STAGES}() that lists its modules in the order in which one feeds the next"
        )
    names = {module: name for name, module in model.named_modules()}
    missing = [type(part).__name__ for part in parts if part not in names]
    if missing:
        raise TaskError(f"Task: {STAGES}() of the model lists {missing[0]}, which is not one of its modules")
    chain = [(names[part], part) for part in parts]
    _require_disjoint(model, chain)
    return chain


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The largest parts that repeat: the elements of its lists and sequences, each once; the model itself if it has none."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and not _inside(module, found):
            found += [child for child in module if any(True for _ in child.parameters())]
    return found or [model]


def recompute(blocks: Sequence[nn.Module]) -> None:
    """Keep only what goes into each block; what happens inside is computed again in the backward pass.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Random numbers are drawn again alike.
    """
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _inside(module: nn.Module, blocks: Sequence[nn.Module]) -> bool:
    return any(module is part for block in blocks for part in block.modules())


def _require_disjoint(model: nn.Module, chain: Sequence[tuple[str, nn.Module]]) -> None:
    owner: dict[int, str] = {}
    for name, part in chain:
        for parameter in part.parameters():
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise TaskError(
                    f"Task: layers {other!r} and {name!r} share a parameter, so a pipeline cannot cut between them: "
                    f"put both into one module, or untie them"
                )
    for name, parameter in model.named_parameters():
        if id(parameter) not in owner:
            raise TaskError(f"Task: parameter {name!r} belongs to none of the layers that the pipeline would cut")
