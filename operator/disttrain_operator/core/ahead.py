"""Agents have had orders that the status knows nothing of: the cluster's memory was put back to an earlier time (a restored
backup of etcd). Agents and fence refuse whatever is older than what they have seen, so the numbers go on from there."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from disttrain_operator.core import group, narrate, progress
from disttrain_operator.core.actions import Plan
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.model import Pod, World


def ahead(world: World) -> Pod | None:
    """The pod of the job that has seen the newest incarnation, if that is newer than the status says. An operator whose own sight
    is old sees the same; what it then writes goes over a version that is old, too, and is refused."""
    n = world.job.status.incarnation
    later = [p for p in world.pods if not p.foreign and _seen(p) > n]
    return max(later, key=lambda p: (_seen(p), -p.index), default=None)


def catch_up(world: World, pod: Pod, now: datetime) -> Plan:
    """The incarnation behind the newest that anybody has seen. As with another size, nobody has failed."""
    seen, status = _seen(pod), progress.fold(world, now)
    message = (
        f"pod {pod.name} is in incarnation {seen}, the status was in {status.incarnation}: the state of the cluster was put back "
        f"to an earlier time; incarnation {seen + 1} starts"
    )
    status = narrate.with_condition(world, status, Type.RUNNING, False, "StatusPutBack", message, now)
    status = replace(status, incarnation=seen + 1, seats=group.seats(world.job), restart_after=None)
    return Plan(status=status, wake_at=now, reason=message)


def _seen(pod: Pod) -> int:
    return pod.report.incarnation if pod.report is not None else 0
