"""Fire drills: the faults that `disttrain drill` can make, and how it speaks with the module that makes them in a pod."""

from __future__ import annotations

from enum import IntEnum, StrEnum

MODULE = "disttrain_runtime.drill"
"""Executed in a worker's container: `python -m disttrain_runtime.drill kill-rank --rank 3`. It prints one line when
the fault is made."""


class Fault(StrEnum):
    """What a drill breaks."""

    KILL_RANK = "kill-rank"
    STOP_RANK = "stop-rank"
    FILL_DISK = "fill-disk"
    KILL_POD = "kill-pod"
    EVICT = "evict"
    KILL_OPERATOR = "kill-operator"
    PARTITION = "partition"
    """Cannot be made through the Kubernetes API; it is there to say so."""


SPARE, WARM_PARENT = "spare", "warm-parent"
"""Names in /proc/PID/comm of processes that do not train."""
CONTINUE_RANK = "continue-rank"
"""Takes `stop-rank` back."""


def process_name(rank: int | None) -> str:
    """The name in /proc/PID/comm of a rank of ours; None: it has no place yet."""
    return SPARE if rank is None else f"rank-{rank}"


class Exit(IntEnum):
    """How the module ends."""

    DONE = 0
    IMPOSSIBLE = 1
    """The fault cannot be made here; stderr says why."""
    NOT_HERE = 3
    """The rank is not in this pod: look in the others."""
