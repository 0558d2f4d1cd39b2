"""Memory for messages, used again and again: for the kernel to find new memory takes longer than to fill it.

A message has one user or several, in different threads; who is done with it says so, and after the last one its memory is free
for the next message of that size. What is lost when a group breaks is nobody's: its successor begins with a new pool.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

_Kind = tuple[int, torch.dtype]


class Row:
    """One message."""

    __slots__ = ("_pool", "_users", "values")

    def __init__(self, pool: Pool, values: Tensor, users: int) -> None:
        self.values, self._pool, self._users = values, pool, users

    def done(self) -> None:
        """One of its users needs it no more."""
        with self._pool.lock:
            self._users -= 1
            if not self._users:
                self._pool.free.setdefault((self.values.numel(), self.values.dtype), []).append(self.values)


class Pool:
    """On the CPU."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.free: dict[_Kind, list[Tensor]] = {}

    def take(self, size: int, dtype: torch.dtype, users: int = 1) -> Row:
        """Of this size; nothing in it means anything."""
        with self.lock:
            held = self.free.get((size, dtype))
            values = held.pop() if held else torch.empty(size, dtype=dtype)
        return Row(self, values, users)
