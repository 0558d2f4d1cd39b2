"""When a changed status is worth a write, and how long training will still take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from disttrain_operator.core.model import Status
from disttrain_operator.manifests.status import to_wire

PROGRESS_EVERY = timedelta(seconds=5)
"""Progress of a job is written at most this often: a step can take milliseconds, a write costs an fsync of etcd, and a
person who watches reads no faster."""
RECOVERING_EVERY = timedelta(seconds=1)
"""While a group comes together again, with its incarnation written down, what is seen of that is written at most this often:
each write takes the processor and the disk from what everybody waits for, and its end is written at once."""
SPEED_WINDOW = timedelta(seconds=60)
"""Speed is measured from a point at least this old when there is one: shorter windows jump with every checkpoint."""


def write_due(old: Status, new: Status, last_write: datetime | None, now: datetime) -> datetime | None:
    """When to write: None means never (nothing changed), a time in the future that what has changed may wait."""
    if to_wire(old) == to_wire(new):
        return None
    if last_write is None:
        return now
    if to_wire(_durable(old)) == to_wire(_durable(new)):
        return max(now, last_write + PROGRESS_EVERY)
    return (
        max(now, last_write + RECOVERING_EVERY) if _recovers(old) and _recovers(new) and same_intent(old, new) else now
    )


def same_intent(old: Status, new: Status) -> bool:
    """Nothing differs that must be written down before anybody acts on it."""
    return _intent(old) == _intent(new)


def _intent(status: Status) -> tuple[object, ...]:
    return status.incarnation, status.attempts, status.seats, status.replacing, status.completion_time


def _recovers(status: Status) -> bool:
    """A failure was written down, and no new step since."""
    return status.last_recovery is not None and status.last_recovery.recover_seconds is None


def _durable(status: Status) -> Status:
    """Without what changes from step to step: numbers, and the wording of conditions that did not change otherwise."""
    wordless = tuple(replace(c, message="") for c in status.conditions)
    return replace(status, progress=None, checkpoint=None, conditions=wordless)


@dataclass(frozen=True, slots=True)
class Mark:
    """A step that was seen, and when."""

    incarnation: int
    step: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Pace:
    """Two marks to measure speed from: `base` is old enough, `next_base` takes its place once it is."""

    base: Mark
    next_base: Mark


def follow(pace: Pace | None, status: Status, now: datetime) -> Pace | None:
    """Take the present step into account. A new incarnation, or a step back, starts afresh."""
    if status.progress is None:
        return None
    mark = Mark(status.incarnation, status.progress.step, now)
    if pace is None or pace.base.incarnation != mark.incarnation or mark.step < pace.next_base.step:
        return Pace(mark, mark)
    if now - pace.next_base.at >= SPEED_WINDOW:
        return Pace(pace.next_base, mark)
    return pace


def eta_seconds(pace: Pace | None, status: Status, now: datetime) -> int | None:
    """Time to the last step at the present speed; None when nobody knows."""
    progress = status.progress
    if pace is None or progress is None or progress.total_steps is None:
        return None
    steps, elapsed = progress.step - pace.base.step, (now - pace.base.at).total_seconds()
    left = progress.total_steps - progress.step
    if left <= 0:
        return 0
    return round(left * elapsed / steps) if steps > 0 and elapsed > 0 else None
