"""A copy of state at the last meeting, so that what came after it can be as if it had never begun."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from disttrain_runtime.checkpoint.structure import put_together, take_apart

Place = tuple[int, tuple[int, ...]]
"""Where a tensor's values lie in memory: the first one, and how far it is to the next ones."""


class Kept:
    """One copy, on the device of the original. Memory once made is used again."""

    def __init__(self) -> None:
        self._structure = b""
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._structure)

    def keep(self, state: Mapping[str, Any], copies: Mapping[Place, Tensor] = MappingProxyType({})) -> None:
        """Copy all of it. `copies`: those that there are already, by the place of the original; they are ours from now on."""
        self._structure, groups = take_apart(state)
        kept: dict[str, dict[str, Tensor]] = {}
        into, out_of = [], []
        for key, tensors in groups.items():
            kept[key] = {}
            for name, tensor in tensors.items():
                place = copies.get(place_of(tensor))
                if place is None or not _alike(place, tensor):
                    place = _place(self._tensors.get(key, {}).get(name), tensor)
                    into.append(place)
                    out_of.append(tensor)
                kept[key][name] = place
        if into:
            torch._foreach_copy_(into, out_of)
        self._tensors = kept

    def held(self) -> dict[str, Any]:
        """What was kept, itself: to be read only, until the next time."""
        return put_together(self._structure, self._tensors) if self else {}

    def give(self) -> dict[str, Any]:
        """What was kept, as copies: whoever loads it may hold on to it."""
        return put_together(
            self._structure,
            {key: {name: t.clone() for name, t in tensors.items()} for key, tensors in self._tensors.items()},
        )


def place_of(tensor: Tensor) -> Place:
    """Tensors of one place and shape have the same values."""
    return tensor.data_ptr(), tensor.stride()


def _place(old: Tensor | None, new: Tensor) -> Tensor:
    return old if old is not None and _alike(old, new) else torch.empty_like(new)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
