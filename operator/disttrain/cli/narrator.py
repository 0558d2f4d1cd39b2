"""From updates to lines: what happened, once each, in words. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from disttrain.api.status import Condition
from disttrain.sdk.job import Happening, Job, parse_time
from disttrain.sdk.updates import Happened, JobGone, JobSeen, Tick, Update

ORDER = (
    "Failed",
    "Succeeded",
    "Restarting",
    "Admitted",
    "Suspended",
    "RestoreVerified",
    "Checkpointed",
    "RemoteCopied",
    "Straggler",
    "WorkersReady",
    "Running",
)
"""When several conditions say the same sentence, the first of these says it."""
QUIET = frozenset({"NotStarted", "Starting", "WaitingForWorkers", "Committed", "Copied"})
"""Reasons that only say that things take their course; the progress line shows them."""
BAD = frozenset(
    {
        ("Failed", "True"),
        ("Restarting", "True"),
        ("Admitted", "False"),
        ("Checkpointed", "False"),
        ("RemoteCopied", "False"),
        ("RestoreVerified", "False"),
        ("Straggler", "True"),
    }
)
GOOD = frozenset({("Succeeded", "True"), ("Running", "True"), ("RestoreVerified", "True")})
REMEMBERED = 64
SAME = 200
"""Events are cut shorter than conditions: sentences are compared by their beginning."""


@dataclass(frozen=True, slots=True)
class Said:
    """One line. `tone` is good, bad or empty."""

    time: datetime | None
    reason: str
    message: str
    tone: str = ""


class Narrator:
    """Remembers what it has said."""

    def __init__(self) -> None:
        self._said: deque[str] = deque(maxlen=REMEMBERED)
        self._conditions: dict[str, tuple[str, str, str]] = {}

    def lines(self, update: Update) -> list[Said]:
        """What this update adds."""
        match update:
            case JobSeen(job):
                return [line for line in self._changes(job) if self._is_new(line.message)]
            case Happened(event):
                return [_of_event(event)] if self._is_new(event.message) and event.reason not in QUIET else []
            case JobGone(job):
                return [Said(None, "Deleted", f"job {job.name} was deleted; its checkpoints stay", "bad")]
            case Tick():
                return []

    def _changes(self, job: Job) -> Iterator[Said]:
        found = {c.type: c for c in job.status.conditions or ()}
        for kind in sorted(found, key=lambda k: ORDER.index(k) if k in ORDER else len(ORDER)):
            condition = found[kind]
            now = (condition.status, condition.reason, condition.message)
            if self._conditions.get(kind) == now:
                continue
            self._conditions[kind] = now
            if condition.reason not in QUIET and condition.message:
                yield _of_condition(condition)

    def _is_new(self, message: str) -> bool:
        if message[:SAME] in self._said:
            return False
        self._said.append(message[:SAME])
        return True


def _of_condition(condition: Condition) -> Said:
    what = (condition.type, condition.status)
    tone = "bad" if what in BAD else "good" if what in GOOD else ""
    if condition.type == "WorkersReady" and condition.status == "False":
        tone = "bad"  # an obstacle: waiting as such is quiet
    return Said(parse_time(condition.last_transition_time), condition.reason, condition.message, tone)


def _of_event(event: Happening) -> Said:
    message = f"{event.about.partition('/')[2]}: {event.message}" if event.about.startswith("Pod/") else event.message
    return Said(event.time, event.reason, message, "bad" if event.warning else "")
