"""Memory that can be handed to another process: a nameless file that lives in memory (memfd).

It counts against the pod's memory like any other, but not against the 64 MB that a container gets as /dev/shm, and it
is gone when the last process that holds it is gone.
"""

from __future__ import annotations

import mmap
import os
import weakref
from contextlib import suppress


class Block:
    """So many bytes, mapped."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self.fd, self.map = fd, memory
        self._close_fd = weakref.finalize(self, os.close, fd)

    @classmethod
    def make(cls, size: int) -> Block:
        """New memory, to read and write."""
        fd = os.memfd_create("checkpoint", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return cls(fd, mmap.mmap(fd, size))
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, size: int) -> Block:
        """The same memory in the process that was given the descriptor, to read."""
        return cls(fd, mmap.mmap(fd, size, prot=mmap.PROT_READ))

    def close(self) -> None:
        """Let go. The mapping itself ends with the last object that looks into it."""
        self._close_fd()
        with suppress(BufferError):
            self.map.close()
