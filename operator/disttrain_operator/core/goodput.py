"""Where a job's time goes. One bucket runs at any moment; the ledger is written only when the bucket changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from disttrain_operator.core.conditions import Type, find, is_true

if TYPE_CHECKING:
    from collections.abc import Mapping

    from disttrain_contract.messages import Checkpoint
    from disttrain_operator.core.model import Status


class Bucket(StrEnum):
    """What the time is spent on."""

    QUEUED = "queued"
    """Not admitted yet: a claim is missing."""
    SUSPENDED = "suspended"
    STARTING = "starting"
    """Pods, images, imports, the first step."""
    PRODUCTIVE = "productive"
    """New steps."""
    CHECKPOINT_STALL = "checkpointStall"
    """Training waited for a checkpoint: for the copy in memory, or at the end for the disk."""
    DETECTING = "detecting"
    """From the failure to the operator's knowledge of it."""
    RECOVERING = "recovering"
    """From there to the first step of the next incarnation."""
    RECOMPUTING = "recomputing"
    """Steps that had been finished before."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Seconds by bucket, and what runs since when."""

    current: Bucket | None = None
    since: datetime | None = None
    seconds: Mapping[Bucket, float] = field(default_factory=lambda: MappingProxyType({}))

    def add(self, bucket: Bucket, seconds: float) -> Ledger:
        """With more in one bucket."""
        total = round(self.seconds.get(bucket, 0.0) + max(0.0, seconds), 3)
        return replace(self, seconds=MappingProxyType({**self.seconds, bucket: total}))

    @property
    def ratio(self) -> float | None:
        """Productive share of the time that the job was neither suspended nor queued by its user."""
        busy = sum(s for b, s in self.seconds.items() if b is not Bucket.SUSPENDED)
        return round(self.seconds.get(Bucket.PRODUCTIVE, 0.0) / busy, 4) if busy > 0 else None


def turn(ledger: Ledger, bucket: Bucket | None, now: datetime) -> Ledger:
    """Close the running bucket and open another; unchanged when it is the same one."""
    if bucket is ledger.current:
        return ledger
    if ledger.current is not None and ledger.since is not None:
        ledger = ledger.add(ledger.current, (now - ledger.since).total_seconds())
    return replace(ledger, current=bucket, since=now if bucket is not None else None)


def detected(ledger: Ledger, late: timedelta, now: datetime) -> Ledger:
    """A failure was heard of `late` after it happened: that time was not spent on what was running."""
    if ledger.current is None or ledger.since is None or not late:
        return ledger
    late = min(late, now - ledger.since)
    closed = turn(ledger, Bucket.DETECTING, now - late)
    return turn(closed, Bucket.RECOVERING, now)


def stalled(ledger: Ledger, before: Checkpoint | None, after: Checkpoint | None, now: datetime) -> Ledger:
    """A commit says how long training has waited in its incarnation: what is new of that was not productive."""
    if after is None or after == before:
        return ledger
    known = before.stalled_seconds if before is not None and before.incarnation == after.incarnation else 0.0
    waited = max(0.0, after.stalled_seconds - known)
    if ledger.current is Bucket.PRODUCTIVE and ledger.since is not None:
        waited = min(waited, max(0.0, (now - ledger.since).total_seconds()))
        return replace(ledger, since=ledger.since + timedelta(seconds=waited)).add(Bucket.CHECKPOINT_STALL, waited)
    productive = ledger.seconds.get(Bucket.PRODUCTIVE, 0.0)  # closed already: take it out again
    if not (waited := min(waited, productive)):
        return ledger
    seconds = {**ledger.seconds, Bucket.PRODUCTIVE: round(productive - waited, 3)}
    return replace(ledger, seconds=seconds).add(Bucket.CHECKPOINT_STALL, waited)


def bucket_of(status: Status) -> Bucket | None:
    """What this status means for the clock; None when the job is over."""
    conditions = status.conditions
    if is_true(conditions, Type.SUCCEEDED) or is_true(conditions, Type.FAILED):
        return None
    suspended = find(conditions, Type.SUSPENDED)
    if suspended is not None and suspended.reason in ("Suspended", "Suspending"):
        return Bucket.SUSPENDED
    if status.incarnation == 0:
        return Bucket.QUEUED
    last = status.last_recovery
    if last is not None and last.incarnation < status.incarnation and last.recover_seconds is None:
        return (
            Bucket.RECOMPUTING if last.lost_steps else Bucket.RECOVERING
        )  # lost_steps is known once state is restored
    if status.progress is None or not is_true(conditions, Type.RUNNING):
        return Bucket.STARTING
    return Bucket.PRODUCTIVE
