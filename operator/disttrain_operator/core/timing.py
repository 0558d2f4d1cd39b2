"""Back-off and deadlines. Everything takes `now`."""

from __future__ import annotations

from datetime import datetime, timedelta

from disttrain_operator.core.model import Job, Status

MAX_BACKOFF = timedelta(seconds=60)
IDLE_RETRY = timedelta(seconds=5)
"""Wait before the next try of a restart that is not charged and has brought no new step: bounds an endless loop's cost."""
CLAIM_RETRY = timedelta(seconds=10)
"""How often a missing claim is looked for."""
STANDBY_BACKOFF, MAX_STANDBY_BACKOFF = timedelta(seconds=10), timedelta(minutes=5)
STANDBY_QUIET = 2 * MAX_STANDBY_BACKOFF
"""A standby that keeps dying is made again as the kubelet would restart a container: at once, after 10, 20, 40 … 300 s, and
after ten minutes without trouble it starts from the beginning."""

CLOCKS_DIFFER = 2
"""So many times its own length a wait may seem to last: clocks of two machines that agree to the second, or the minute, break no back-off."""


def restart_delay(attempts: int, *, charged: bool, progressed: bool) -> timedelta:
    """At once after the first failure and after any failure that came behind new steps; then 1, 2, 4 … 60 s."""
    if progressed or (charged and attempts <= 1):
        return timedelta(0)
    if not charged:
        return IDLE_RETRY
    return min(MAX_BACKOFF, timedelta(seconds=2 ** min(attempts - 2, 10)))


def standby_retry(status: Status) -> datetime | None:
    """When a lost standby may be made again."""
    trouble = status.standby_trouble
    if trouble is None or trouble.failures <= 1:
        return None
    return trouble.failed_at + min(MAX_STANDBY_BACKOFF, STANDBY_BACKOFF * (1 << min(trouble.failures - 2, 10)))


def standby_is_held(status: Status, now: datetime) -> bool:
    """Whether that is later than now."""
    retry = standby_retry(status)
    return retry is not None and now < retry <= now + CLOCKS_DIFFER * MAX_STANDBY_BACKOFF


def is_held(status: Status, now: datetime) -> bool:
    """The next incarnation waits for its back-off. One that is further away than any can be was written by a clock ahead of ours
    (of the operator before this one, on another machine): nobody knows what is left of it, so nothing is."""
    return status.restart_after is not None and now < status.restart_after <= now + CLOCKS_DIFFER * MAX_BACKOFF


def due(since: datetime, wait: timedelta, now: datetime) -> datetime:
    """When a wait is over that began at `since`. One that has not begun yet was written by a clock ahead of ours: it begins and ends now."""
    return since + wait if since <= now else now


def active_deadline(job: Job) -> datetime | None:
    """When the job has been active for too long."""
    start, limit = job.status.start_time, job.spec.active_deadline
    return start + limit if start is not None and limit is not None else None


def startup_deadline(job: Job) -> datetime | None:
    """When the job should have been running."""
    start, limit = job.status.start_time, job.spec.startup_deadline
    return start + limit if start is not None and limit is not None else None


def expiry(job: Job) -> datetime | None:
    """When a finished job is deleted."""
    end, ttl = job.status.completion_time, job.spec.ttl
    return end + ttl if end is not None and ttl is not None else None


def earliest(*times: datetime | None) -> datetime | None:
    """The first of those that are set."""
    return min((t for t in times if t is not None), default=None)
