"""Condition algebra: set one, keep its transition time when nothing changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_MESSAGE = 4096
"""Long enough for a sentence and a traceback's last line; the API server's own limit is 32768."""


class Type(StrEnum):
    """The condition types, in the order in which they are shown."""

    ADMITTED = "Admitted"
    WORKERS_READY = "WorkersReady"
    STANDBY_READY = "StandbyReady"
    """Only of a job that asks for standbys."""
    RUNNING = "Running"
    RESTARTING = "Restarting"
    CHECKPOINTED = "Checkpointed"
    REMOTE_COPIED = "RemoteCopied"
    """Only of a job that has a second tier for its checkpoints."""
    RESTORE_VERIFIED = "RestoreVerified"
    STRAGGLER = "Straggler"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """metav1.Condition."""

    type: Type
    status: str
    reason: str
    message: str
    since: datetime
    observed_generation: int


Conditions = tuple[Condition, ...]


def find(conditions: Conditions, kind: Type) -> Condition | None:
    """The condition of that type."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Conditions, kind: Type) -> bool:
    """Whether it is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def put(
    conditions: Conditions, kind: Type, holds: bool, reason: str, message: str, *, generation: int, now: datetime
) -> Conditions:
    """Set one condition. `since` moves only when the status flips; an equal condition is returned unchanged."""
    status = "True" if holds else "False"
    old = find(conditions, kind)
    since = old.since if old is not None and old.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MAX_MESSAGE],
        since=since,
        observed_generation=generation,
    )
    rest = {c.type: c for c in conditions} | {kind: new}
    return tuple(rest[t] for t in Type if t in rest)


def drop(conditions: Conditions, kind: Type) -> Conditions:
    """Without that type."""
    return tuple(c for c in conditions if c.type != kind)
