"""Pods that hold no seat and die while they wait: made again with back-off, said to people, charged to nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from disttrain_operator.core import failure, group, timing
from disttrain_operator.core.model import Pod, StandbyTrouble, Status, World

MAX_CAUSE = 1000


def replaced(world: World, status: Status, now: datetime) -> Status:
    """Standbys that are lost are written down, and made again later. The group goes on as if nothing had happened."""
    lost = [p for p in group.unseated(world) if p.exit is not None or p.lost is not None or p.deleting]
    if not lost:
        return status
    before, cause = status.standby_trouble, _cause(lost[0])
    quiet = before is None or now - before.failed_at >= timing.STANDBY_QUIET
    failures = 1 if quiet or before is None else before.failures + 1
    trouble = StandbyTrouble(failures=failures, failed_at=now, cause=cause[:MAX_CAUSE])
    return replace(status, replacing=(*status.replacing, *(p.uid for p in lost)), standby_trouble=trouble)


def _cause(pod: Pod) -> str:
    ended_well = pod.lost is None and pod.exit is not None and pod.exit.exit_code == 0
    return f"pod {pod.name} ended while it waited" if ended_well else failure.why_dead(pod)[1]


def trouble(status: Status, now: datetime) -> tuple[str, str] | None:
    """Reason and sentence while standbys keep dying."""
    found = status.standby_trouble
    if found is None or now - found.failed_at >= timing.STANDBY_QUIET:
        return None
    often = "once" if found.failures == 1 else f"{found.failures} times in a row"
    return "StandbyFailing", f"a standby died {often} while it waited, the workers are not affected: {found.cause}"


def wake_at(world: World, status: Status, now: datetime) -> datetime | None:
    """When the next thing is due that no event will announce."""
    if status.standby_trouble is not world.job.status.standby_trouble:
        return now  # written down, not acted upon yet
    held = timing.standby_is_held(status, now) and group.missing(world)
    return timing.standby_retry(status) if held else None
