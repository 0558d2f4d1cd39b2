"""A copy of state at the last meeting, so that what came after it can be as if it had never begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from disttrain_runtime.checkpoint.structure import put_together, take_apart


class Kept:
    """One copy, on the device of the original. Memory once made is used again."""

    def __init__(self) -> None:
        self._structure = b""
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._structure)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Copy all of it."""
        self._structure, groups = take_apart(state)
        self._tensors = {
            key: {name: _copy(self._tensors.get(key, {}).get(name), tensor) for name, tensor in tensors.items()}
            for key, tensors in groups.items()
        }

    def give(self) -> dict[str, Any]:
        """What was kept, as copies: whoever loads it may hold on to it."""
        return put_together(
            self._structure,
            {key: {name: t.clone() for name, t in tensors.items()} for key, tensors in self._tensors.items()},
        )


def _copy(old: Tensor | None, new: Tensor) -> Tensor:
    if old is not None and (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device):
        return old.copy_(new)
    return new.clone()
