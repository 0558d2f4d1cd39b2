"""What is said to people: conditions, the one-word state, events. The same reason string everywhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from disttrain_contract.messages import AgentState
from disttrain_operator.core import admission, group, progress
from disttrain_operator.core.actions import Event
from disttrain_operator.core.conditions import Condition, Type, find, is_true, put
from disttrain_operator.core.model import Pod, Status, World

WARNINGS = frozenset(
    {(Type.ADMITTED, "False"), (Type.RESTARTING, "True"), (Type.CHECKPOINTED, "False"), (Type.RESTORE_VERIFIED, "False"), (Type.FAILED, "True")}
)  # fmt: skip
"""Transitions that somebody should look at."""

QUIET = frozenset(
    {"Starting", "WaitingForWorkers", "NotStarted", "WorkersReady", "Recovered", "Finished", "Restarting"}
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
    """The conditions that are seen rather than decided: WorkersReady, Running, Checkpointed, RestoreVerified."""
    status = _workers_ready(world, status, now)
    status = _running(world, status, now)
    status = _checkpointed(world, status, now)
    return _restore_verified(world, status, now)


def _workers_ready(world: World, status: Status, now: datetime) -> Status:
    counts = status.workers
    if counts.ready + counts.succeeded >= world.job.spec.workers and group.unequal(world) is None:
        return with_condition(
            world,
            status,
            Type.WORKERS_READY,
            True,
            "WorkersReady",
            f"all {world.job.spec.workers} workers are connected",
            now,
        )
    reason, message = _obstacle(world) or (
        "WaitingForWorkers",
        f"{counts.ready + counts.succeeded} of {world.job.spec.workers} workers are connected",
    )
    return with_condition(world, status, Type.WORKERS_READY, False, reason, message, now)


def _obstacle(world: World) -> tuple[str, str] | None:
    for pod in sorted(world.pods, key=lambda p: p.index):
        if pod.foreign:
            return "NameConflict", f"pod {pod.name} exists and is not this job's: rename one of them or delete it"
        if pod.waiting is not None and _UNBOUND in pod.waiting[1]:
            return "WaitingForVolume", f"pod {pod.name}: {pod.waiting[1]}"
        if pod.waiting is not None:
            return pod.waiting[0], f"pod {pod.name}: {pod.waiting[1] or pod.waiting[0]}"
    if sentence := group.unequal(world):
        return "UnequalWorkers", sentence
    return ("PodRefused", world.refused) if world.refused is not None else None


def _running(world: World, status: Status, now: datetime) -> Status:
    """True once every member of the incarnation has started; it stays so until the incarnation is left."""
    n, members = status.incarnation, group.members(world).values()
    started = [p for p in members if group.is_active(p, n) or group.is_finished(p, n) or _failed_in(p, n)]
    if is_true(status.conditions, Type.RUNNING) or len(started) < world.job.spec.workers:
        if find(status.conditions, Type.RUNNING) is None:
            return with_condition(
                world, status, Type.RUNNING, False, "NotStarted", "the first incarnation has not started", now
            )
        return status
    message = f"incarnation {n} runs on {world.job.spec.workers} workers"
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


def _restore_verified(world: World, status: Status, now: datetime) -> Status:
    start = progress.restored(world)
    if start is None or (start.source == "none" and not start.skipped):
        return status
    skipped = f"; skipped: {'; '.join(start.skipped)}" if start.skipped else ""
    if start.source == "none":
        return with_condition(
            world,
            status,
            Type.RESTORE_VERIFIED,
            False,
            "NothingVerified",
            f"no checkpoint verified, training starts at step 0{skipped}",
            now,
        )
    if start.source == "survivor":
        message = f"incarnation {status.incarnation} goes on from step {start.step}, which a living rank held"
        return with_condition(world, status, Type.RESTORE_VERIFIED, True, "FromSurvivor", message, now)
    message = f"incarnation {status.incarnation} goes on from step {start.step}, digest {start.digest[:19]}… verified{skipped}"
    return with_condition(
        world, status, Type.RESTORE_VERIFIED, True, "SkippedCorrupt" if start.skipped else "Verified", message, now
    )


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
        condition.type is Type.WORKERS_READY and condition.status == "False"
    )
    return Event(condition.reason, condition.message, warning)
