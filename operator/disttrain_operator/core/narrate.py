"""What is said to people: conditions, the one-word state, events. The same reason string everywhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from disttrain_contract.messages import AgentState
from disttrain_operator.core import admission, group, progress, restored, standby
from disttrain_operator.core.actions import Event
from disttrain_operator.core.conditions import Condition, Type, drop, find, is_true, put
from disttrain_operator.core.model import Pod, Status, World

WARNINGS = frozenset(
    {
        (Type.ADMITTED, "False"),
        (Type.RESTARTING, "True"),
        (Type.CHECKPOINTED, "False"),
        (Type.REMOTE_COPIED, "False"),
        (Type.RESTORE_VERIFIED, "False"),
        (Type.STRAGGLER, "True"),
        (Type.FAILED, "True"),
    }
)
"""Transitions that somebody should look at."""

QUIET = frozenset(
    {
        "Starting",
        "WaitingForWorkers",
        "NotStarted",
        "WorkersReady",
        "Recovered",
        "Finished",
        "Restarting",
        "WaitingForStandby",
        "StandbyReady",
    }
)
"""Reasons that only say that things take their course: no event."""

_UNBOUND = "unbound immediate PersistentVolumeClaims"
"""The scheduler's words for a claim that was made a moment ago."""
EVENTLESS = QUIET | {"WaitingForVolume"}
"""Shown in state and condition while it lasts, but nothing to alert anybody about."""
_PAUSE = frozenset({"Suspended", "Suspending"})
"""Said once, by the condition of that name."""


def with_condition(
    world: World, status: Status, kind: Type, holds: bool, reason: str, message: str, now: datetime
) -> Status:
    """Set one condition of the job."""
    found = put(status.conditions, kind, holds, reason, message, generation=world.job.generation, now=now)
    return replace(status, conditions=found)


def observed(world: World, status: Status, now: datetime) -> Status:
    """The conditions that are seen rather than decided."""
    status = _workers_ready(world, status, now)
    status = _standby_ready(world, status, now)
    status = _running(world, status, now)
    status = _checkpointed(world, status, now)
    status = _remote_copied(world, status, now)
    status = _restore_verified(world, status, now)
    return _straggler(world, status, now)


def _workers_ready(world: World, status: Status, now: datetime) -> Status:
    counts, seats = status.workers, frozenset(group.seats(world.job))
    connected, differ = counts.ready + counts.succeeded, group.unequal(world)
    if connected >= len(seats) and differ is None and group.absent(world.job):
        return with_condition(world, status, Type.WORKERS_READY, False, "Shrunk", _shrunk(world, status, now), now)
    if connected >= len(seats) and differ is None:
        message = f"all {len(seats)} workers are connected"
        return with_condition(world, status, Type.WORKERS_READY, True, "WorkersReady", message, now)
    reason, message = (
        _pod_obstacle(world, seats)
        or (("UnequalWorkers", differ) if differ is not None else None)
        or (("PodRefused", world.refused) if world.refused is not None else None)
        or ("WaitingForWorkers", f"{connected} of {len(seats)} workers are connected")
    )
    return with_condition(world, status, Type.WORKERS_READY, False, reason, message, now)


def _shrunk(world: World, status: Status, now: datetime) -> str:
    """Why the group is small, as far as it is known."""
    why = standby.trouble(status, now) or _pod_obstacle(world, _free(world))
    goes_on = f"the group goes on with {len(group.seats(world.job))} of {world.job.spec.workers} workers"
    return f"{goes_on} until more are ready (spec.elastic){f'; {why[1]}' if why is not None else ''}"


def _free(world: World) -> frozenset[int]:
    return frozenset(group.wanted(world.job)) - frozenset(group.seats(world.job))


def _standby_ready(world: World, status: Status, now: datetime) -> Status:
    """Nothing depends on it but how long the next recovery takes."""
    asked, ready = world.job.spec.standby, status.workers.standby
    if ready is None:
        return replace(status, conditions=drop(status.conditions, Type.STANDBY_READY))
    if ready >= asked:
        message = f"{ready} of {asked} standbys are connected"
        return with_condition(world, status, Type.STANDBY_READY, True, "StandbyReady", message, now)
    reason, message = (
        standby.trouble(status, now)
        or _pod_obstacle(world, _free(world))
        or ("WaitingForStandby", f"{ready} of {asked} standbys are connected")
    )
    return with_condition(world, status, Type.STANDBY_READY, False, reason, message, now)


def _pod_obstacle(world: World, indices: frozenset[int]) -> tuple[str, str] | None:
    """What keeps one of these pods from starting."""
    for pod in sorted((p for p in world.pods if p.index in indices), key=lambda p: p.index):
        if pod.foreign:
            return "NameConflict", f"pod {pod.name} exists and is not this job's: rename one of them or delete it"
        if pod.waiting is not None and _UNBOUND in pod.waiting[1]:
            return "WaitingForVolume", f"pod {pod.name}: {pod.waiting[1]}"
        if pod.waiting is not None:
            return pod.waiting[0], f"pod {pod.name}: {pod.waiting[1] or pod.waiting[0]}"
    return None


def _running(world: World, status: Status, now: datetime) -> Status:
    """True once every member of the incarnation has started; it stays so until the incarnation is left."""
    n, members = status.incarnation, group.members(world).values()
    started = [p for p in members if group.is_active(p, n) or group.is_finished(p, n) or _failed_in(p, n)]
    if is_true(status.conditions, Type.RUNNING) or len(started) < len(group.seats(world.job)):
        if find(status.conditions, Type.RUNNING) is None:
            return with_condition(
                world, status, Type.RUNNING, False, "NotStarted", "the first incarnation has not started", now
            )
        return status
    message = f"incarnation {n} runs on {len(started)} workers"
    status = with_condition(world, status, Type.RUNNING, True, "Running", message, now)
    if is_true(status.conditions, Type.RESTARTING):
        status = with_condition(world, status, Type.RESTARTING, False, "Recovered", message, now)
    return status


def _failed_in(pod: Pod, n: int) -> bool:
    report = pod.report
    return report is not None and report.incarnation == n and report.state is AgentState.FAILED


def _checkpointed(world: World, status: Status, now: datetime) -> Status:
    if world.job.spec.claim is None:
        return status
    problem = next(
        (
            p.report.checkpoint_problem
            for p in world.pods
            if p.report is not None and p.report.checkpoint_problem is not None
        ),
        None,
    )
    if problem is not None:
        message = f"step {problem.step} could not be saved, training goes on: {problem.message}"
        return with_condition(world, status, Type.CHECKPOINTED, False, problem.reason, message, now)
    if status.checkpoint is None:
        return status
    message = "the newest checkpoint is in status.checkpoint.lastCommitted"
    if warning := admission.too_small(world, status.checkpoint):
        return with_condition(world, status, Type.CHECKPOINTED, True, "ClaimTooSmall", warning, now)
    return with_condition(world, status, Type.CHECKPOINTED, True, "Committed", message, now)


def _remote_copied(world: World, status: Status, now: datetime) -> Status:
    """The newest word of the agents; a job without a second tier has no such condition."""
    said = progress.remote_copy(world)
    if said is None:
        return status
    if said.reason:
        message = f"step {said.step} is not copied to {said.url}, training goes on: {said.message}"
        return with_condition(world, status, Type.REMOTE_COPIED, False, said.reason, message, now)
    message = f"step {said.step} is at {said.url} as {said.digest[:19]}…, read back and verified"
    return with_condition(world, status, Type.REMOTE_COPIED, True, "Copied", message, now)


def _restore_verified(world: World, status: Status, now: datetime) -> Status:
    start = progress.restored(world)
    said = restored.verdict(status.incarnation, start, world.job.status.checkpoint) if start is not None else None
    return with_condition(world, status, Type.RESTORE_VERIFIED, *said, now) if said is not None else status


def _straggler(world: World, status: Status, now: datetime) -> Status:
    """Rank 0 names it, and has made sure of it; a condition appears only when there was one."""
    said = progress.latest(world)
    if said is None:
        return status
    if (slow := said.straggler) is not None:
        pod = group.pod_of_rank(world, slow.rank)
        where = f" on {pod.name} (node {pod.node or '?'})" if pod is not None else ""
        message = f"rank {slow.rank}{where} takes {slow.factor:g} times as long as the median rank for its own part of a step: all wait for it"
        return with_condition(world, status, Type.STRAGGLER, True, "SlowRank", message, now)
    if find(status.conditions, Type.STRAGGLER) is None:
        return status
    return with_condition(world, status, Type.STRAGGLER, False, "NoStraggler", "all ranks are about equally fast", now)


def state(status: Status) -> str:
    """One word for the printer column, from the conditions."""
    held = {c.type: c for c in status.conditions if c.status == "True"}
    if Type.FAILED in held:
        return "Failed"
    if Type.SUCCEEDED in held:
        return "Succeeded"
    suspended = find(status.conditions, Type.SUSPENDED)
    if suspended is not None and suspended.reason in ("Suspended", "Suspending"):
        return suspended.reason
    admitted = find(status.conditions, Type.ADMITTED)
    if admitted is not None and admitted.status == "False":
        return admitted.reason
    if Type.RUNNING in held:
        return "Running"
    running = find(status.conditions, Type.RUNNING)
    if running is not None and running.reason == "Resized":
        return "Resizing"
    ready = find(status.conditions, Type.WORKERS_READY)
    if ready is not None and ready.status == "False" and ready.reason not in QUIET:
        return ready.reason
    return "Restarting" if Type.RESTARTING in held else "Starting"


def events(old: Status, new: Status) -> tuple[Event, ...]:
    """One event for each condition whose status or reason changed, in the order of the conditions."""
    before = {c.type: c for c in old.conditions}
    return tuple(_event(c) for c in new.conditions if _is_news(before.get(c.type), c))


def _is_news(old: Condition | None, new: Condition) -> bool:
    if new.reason in EVENTLESS or (new.reason in _PAUSE and new.type is not Type.SUSPENDED):
        return False
    if old is None:
        return True
    return (old.status, old.reason) != (new.status, new.reason) or (
        new.type is Type.RESTARTING and old.message != new.message
    )


def _event(condition: Condition) -> Event:
    warning = (condition.type, condition.status) in WARNINGS or (
        condition.type in (Type.WORKERS_READY, Type.STANDBY_READY) and condition.status == "False"
    )
    return Event(condition.reason, condition.message, warning)
