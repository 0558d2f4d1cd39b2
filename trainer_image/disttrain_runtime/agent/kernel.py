"""What the kernel can do for a process and Python has no name for."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_ARG_START = 48 - 3
"""Field 48 of /proc/self/stat, in `stat_fields`."""
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Called in a new child of the agent: the kernel kills it when the agent dies, however the agent dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        os._exit(128 + signal.SIGKILL)


def adopt_orphans() -> None:
    """Grandchildren whose parent died become ours, as they do for PID 1, so that we can end and reap them."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def prefer_for_oom(pid: int, *, prefer: bool = True) -> None:
    """Let the kernel take this process first when memory runs out, or no sooner than us. A wish, not a condition."""
    with suppress(OSError):
        score = "1000" if prefer else Path("/proc/self/oom_score_adj").read_text()
        Path(f"/proc/{pid}/oom_score_adj").write_text(score)


def stat_fields(path: Path) -> list[str]:
    """What stands in a /proc/…/stat behind the name, which may hold blanks and parentheses. Raises OSError: it is gone."""
    return path.read_text().rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    """Memory that a process has in use; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def name_self(name: str) -> None:
    """What /proc/PID/comm says: who is who in a pod. Called on the main thread; the kernel keeps 15 characters."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def call_self(argv: Sequence[str]) -> None:
    """Let `ps` show this command line instead of the one that was executed, cut to the room that one left."""
    try:
        fields = stat_fields(Path("/proc/self/stat"))
    except OSError:
        return
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    line = b"".join(os.fsencode(word) + b"\0" for word in argv)[: end - start - 1] if end > start else b""
    if line:  # all zeros: not ours to read
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)
