"""A copy of the state at one step, in memory that is used again and again: all that training has to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from disttrain_runtime.checkpoint.snapshot import STRUCTURE, SUFFIX, Parts, Snapshot
from disttrain_runtime.checkpoint.structure import take_apart
from disttrain_runtime.checkpoint.tensor_file import Layout, lay_out


class Buffers:
    """One flat buffer per file, laid out like the file. Made and touched once: a page fault costs four times a copy."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def capture(self, state: Mapping[str, Any]) -> Snapshot:
        """Copy the state. When this returns, training may change its tensors."""
        structure, groups = take_apart(state)
        layouts = {f"{key}{SUFFIX}": (lay_out(tensors), tensors) for key, tensors in groups.items()}
        files: dict[str, Parts] = {STRUCTURE: (structure,)}
        for name, (layout, tensors) in layouts.items():
            flat = self._buffer(name, layout, pinned=any(t.is_cuda for t in tensors.values()))
            _copy(layout, tensors, flat)
            files[name] = (layout.header, flat.numpy().data if layout.bytes else b"")
        if any(t.is_cuda for tensors in groups.values() for t in tensors.values()):
            torch.cuda.synchronize()
        return Snapshot(files)

    def _buffer(self, name: str, layout: Layout, *, pinned: bool) -> Tensor:
        present = self._flat.get(name)
        if present is None or present.numel() != layout.bytes:
            self._flat.pop(name, None)
            # zeros + fill_: zeros alone maps the kernel's one zero page, and the faults would come with the copy.
            present = torch.zeros(layout.bytes, dtype=torch.uint8, pin_memory=pinned).fill_(1)
            self._flat[name] = present
        return present


def _copy(layout: Layout, tensors: Mapping[str, Tensor], flat: Tensor) -> None:
    for slot in layout.slots:
        if slot.bytes:
            place = flat[slot.offset : slot.offset + slot.bytes].view(slot.dtype).view(slot.shape)
            place.copy_(tensors[slot.name], non_blocking=True)
