"""Another size for a group in which nobody has failed: it grows when workers are back, follows spec.workers, and does not wait
for ever for a pod that does not come. A resize is a new incarnation, but no failure and no recovery: nothing is charged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from disttrain_operator.core import conditions, group, narrate, seating, timing
from disttrain_operator.core.actions import Plan
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.model import Status, World

GROW_AFTER = timedelta(seconds=10)
"""A group that has just formed is left alone for this long. To form again costs every rank a few steps' time, and a pod that has
come back a moment ago is the likeliest to go again: whatever flaps, the group grows at most once in ten seconds."""
GROW_PARTLY_AFTER = timedelta(seconds=60)
"""For so long it waits for the last missing worker; then it takes those that are there. The others may never come."""
GATHER = timedelta(seconds=10)
"""Pods of a job start within seconds of each other. A group that has not formed waits for this long before it starts smaller."""


@dataclass(frozen=True, slots=True)
class Resize:
    """What the group could become, and when."""

    seats: tuple[int, ...]
    at: datetime


def resize(world: World, status: Status, now: datetime) -> Resize | None:
    """None: the group has the size that it should have, or that it can have."""
    job, members = world.job, group.members(world)
    if any(group.is_finished(p, status.incarnation) for p in members.values()):
        return None  # it is about to end
    seats = group.seats(job)
    if len(seats) > job.spec.workers:
        return Resize(seats[: job.spec.workers], now)
    if conditions.is_true(status.conditions, Type.RUNNING):
        return _grown(world, status, now)
    return None if job.spec.min_workers is None or timing.is_held(status, now) else _gathered(world, status, now)


def _grown(world: World, status: Status, now: datetime) -> Resize | None:
    """All workers again, or after a while as many as there are."""
    seats, members, absent = group.seats(world.job), group.members(world).values(), group.absent(world.job)
    if not absent or len(members) < len(seats) or not all(group.is_ready(p) for p in members):
        return None
    spare, running = seating.spares(world, members)[:absent], conditions.find(status.conditions, Type.RUNNING)
    if not spare or running is None:
        return None
    wait = GROW_AFTER if len(spare) == absent else GROW_PARTLY_AFTER
    return Resize((*seats, *spare), timing.due(running.since, wait, now))


def _gathered(world: World, status: Status, now: datetime) -> Resize | None:
    """Those that are there, when somebody is not and enough are."""
    job, members = world.job, group.members(world)
    here = {place: p for place, p in members.items() if group.is_ready(p)}
    late = [p for place, p in members.items() if place not in here]
    ready = conditions.find(status.conditions, Type.WORKERS_READY)
    seats = (*(p.index for p in here.values()), *seating.spares(world, here.values()))[: job.spec.workers]
    if len(here) == len(group.seats(job)) or len(seats) < (job.spec.min_workers or 1) or ready is None:
        return None
    if any(seating.patience(p) > 0 for p in late):
        return None  # its stream comes back, or it will be lost
    return Resize(seats, timing.due(ready.since, GATHER, now))


def resized(world: World, status: Status, seats: tuple[int, ...], now: datetime) -> Plan:
    """The next incarnation, with these seats."""
    n = status.incarnation + 1
    message = f"resized{seating.moves(world, seats)}; incarnation {n} starts"
    status = narrate.with_condition(world, status, Type.RUNNING, False, "Resized", message, now)
    replacing = seating.replacing(world, seats)
    return Plan(status=replace(status, incarnation=n, seats=seats, replacing=replacing), wake_at=now, reason=message)
