"""Fire drills: the faults that `disttrain drill` can make, and how it speaks with the module that makes them in a pod."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is written on the job before a fault is made, so that the failure can be told from a real one. It names the
    incarnation and the pod that it is for: it means nothing for any other failure, and nothing once that one is over."""

    fault: Fault
    incarnation: int
    pod: str

    def encode(self) -> str:
        """The annotation's value."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_announcement(text: str | None) -> Announcement | None:
    """None for what is none: anybody may write an annotation."""
    try:
        found = json.loads(text or "")
        fault, incarnation, pod = Fault(found["fault"]), found["incarnation"], found["pod"]
    except (ValueError, TypeError, KeyError):
        return None
    whole = isinstance(incarnation, int) and not isinstance(incarnation, bool)
    return Announcement(fault, incarnation, pod) if whole and isinstance(pod, str) else None
