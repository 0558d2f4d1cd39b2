"""What the kernel knows about a process's main thread: does it run, wait, stand still?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from disttrain_runtime.agent.kernel import stat_fields

_TICKS = os.sysconf("SC_CLK_TCK")
_STATE, _USER, _SYSTEM = 0, 11, 12
"""Places in `stat_fields`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainThread:
    """At one moment."""

    state: str
    cpu_seconds: float
    starved_seconds: float
    """It could run, but got no processor; 0 where the kernel does not count that."""


def look(pid: int) -> MainThread | None:
    """None: the process is gone."""
    task = Path(f"/proc/{pid}/task/{pid}")
    try:
        fields = stat_fields(task / "stat")
    except OSError:
        return None
    return MainThread(
        state=fields[_STATE],
        cpu_seconds=(int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS,
        starved_seconds=_starved(task),
    )


def waiting_in(pid: int) -> str:
    """The kernel function in which it sleeps, if the kernel tells."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text().strip("0\n")
    except OSError:
        return ""


def _starved(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
