"""A rank's end is noticed at once: its memory is taken apart behind its back, by a process that has nothing else to do.

When a process dies, the kernel first takes its memory apart and only then closes its sockets and tells its parent. With torch loaded that
is 20 to 40 ms in which peers and agent wait for news. But memory goes with the last process that uses it, and a process may share it
(CLONE_VM, as vfork does): then a dying rank's connections close in the first millisecond, and the memory goes when the keeper does.

The keeper is made before the rank has opened anything, so it holds nothing open. It runs no code but `pause`, in libc, on a stack of its own,
with every signal blocked but one: SIGIO, which the kernel sends when the last writer of a pipe is gone. The writer is the rank.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from contextlib import suppress

_CLONE_VM = 0x100
_STACK_BYTES = 64 * 1024
_kept: list[object] = []
"""The stack: it must outlive every use, as the rank's own does."""


def keep() -> int | None:
    """Start this process's keeper, and give its number. On the main thread, while nothing is open that others wait to see closed.
    None: it could not be made, and the end takes as long as it takes."""
    with suppress(
        OSError, ValueError, AttributeError
    ):  # no descriptor or process left, another thread, no such function
        reading = _pipe_without_writer()
        try:
            return _bound(_clone(), reading)
        finally:
            os.close(reading)  # the keeper has it still, and with it the order to send the signal
    return None


def _bound(pid: int, reading: int) -> int:
    """It ends when nobody holds the pipe's other end, which from now on this process does."""
    try:
        fcntl.fcntl(reading, fcntl.F_SETOWN, pid)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        _kept.append(os.open(f"/proc/self/fd/{reading}", os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
    return pid


def _pipe_without_writer() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def _clone() -> int:
    """A process that shares this one's memory and waits for a signal. Its death is no news for anybody (no exit signal)."""
    libc = ctypes.CDLL(None, use_errno=True)
    stack = ctypes.create_string_buffer(_STACK_BYTES)
    _kept.append(stack)
    top = (ctypes.addressof(stack) + _STACK_BYTES) & ~0xF
    libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGIO})
    handler = signal.signal(signal.SIGIO, signal.SIG_DFL)
    try:
        pid = int(libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), top, _CLONE_VM, None))
    finally:
        signal.signal(signal.SIGIO, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid
