"""A copy of the state at one step, in memory that is used again and again: all that training has to wait for.

And not for all of that: what only an update changes (the optimizer's state, two thirds with Adam) is copied on a thread
while the next step computes its gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from disttrain_runtime.checkpoint.block import Block
from disttrain_runtime.checkpoint.snapshot import STRUCTURE, SUFFIX, File, Snapshot
from disttrain_runtime.checkpoint.structure import take_apart
from disttrain_runtime.checkpoint.tensor_file import Layout, lay_out


class ChangedError(Exception):
    """State changed while it was copied."""


class Buffers:
    """One block per file, laid out like the file. Made and touched once: a page fault costs four times a copy."""

    def __init__(self) -> None:
        self._held: dict[str, _Buffer] = {}

    def capture(self, state: Mapping[str, Any], quiet: Collection[str] = ()) -> Capture:
        """Copy the state. When this returns, training may change its tensors, but for those of the quiet top-level keys:
        they are copied beside it, until `Capture.finish`."""
        structure, groups = take_apart(state)
        on_gpu = any(t.is_cuda for tensors in groups.values() for t in tensors.values())
        files = {STRUCTURE: File(structure)}
        later: list[tuple[Layout, Mapping[str, Tensor], Tensor]] = []
        for key, tensors in groups.items():
            name, layout = f"{key}{SUFFIX}", lay_out(tensors)
            files[name] = File(layout.header)
            if layout.bytes:
                buffer = self._buffer(name, layout.bytes, pinned=on_gpu)
                if key in quiet and not on_gpu:  # a GPU copies by itself, and fast
                    later.append((layout, tensors, buffer.flat))
                else:
                    _copy(layout, tensors, buffer.flat)
                files[name] = File(layout.header, buffer.block)
        if on_gpu:
            torch.cuda.synchronize()
        return Capture(Snapshot(files), later)

    def release(self) -> None:
        """Give the memory back."""
        while self._held:
            self._held.popitem()[1].close()

    def _buffer(self, name: str, size: int, *, pinned: bool) -> _Buffer:
        present = self._held.get(name)
        if present is None or present.flat.numel() != size:
            if present is not None:
                present.close()
            present = self._held[name] = _Buffer(size, pinned=pinned)
        return present


class Capture:
    """A snapshot, perhaps with a part that is still being copied."""

    def __init__(self, snapshot: Snapshot, later: Sequence[tuple[Layout, Mapping[str, Tensor], Tensor]] = ()) -> None:
        self._snapshot, self._later = snapshot, later
        self._before = self._versions()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._copy, name="checkpoint-copy", daemon=True) if later else None
        if self._thread is not None:
            self._thread.start()  # the interpreter's lock is free while a tensor is copied

    def finish(self) -> Snapshot:
        """Wait for the rest. Raises ChangedError when it was changed meanwhile: the copy is no state of any step."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._versions() != self._before:
            raise ChangedError("what only an update should change was changed before it")
        return self._snapshot

    def _copy(self) -> None:
        try:
            for part in self._later:
                _copy(*part)
        except BaseException as error:
            self._error = error

    def _versions(self) -> list[int]:
        """torch counts the changes of each tensor in place."""
        return [tensor._version for _, tensors, _ in self._later for tensor in tensors.values()]


class _Buffer:
    """A block as a tensor."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        self.block = Block.make(size)
        self.flat = torch.frombuffer(self.block.map, dtype=torch.uint8).zero_()  # the faults come here, not in a save
        self._pinned = pinned
        if pinned:  # the GPU copies by itself into memory that cannot move
            torch.cuda.check_error(_cuda().cudaHostRegister(self.flat.data_ptr(), size, 0))

    def close(self) -> None:
        if self._pinned:
            torch.cuda.check_error(_cuda().cudaHostUnregister(self.flat.data_ptr()))
        del self.flat
        self.block.close()


def _cuda() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _copy(layout: Layout, tensors: Mapping[str, Tensor], flat: Tensor) -> None:
    for slot in layout.slots:
        if slot.bytes:
            place = flat[slot.offset : slot.offset + slot.bytes].view(slot.dtype).view(slot.shape)
            place.copy_(tensors[slot.name], non_blocking=True)
