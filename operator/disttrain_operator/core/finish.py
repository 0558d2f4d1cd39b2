"""The end of a job: succeed, fail, clean up, expire. And the pause: suspend and resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from disttrain_operator.core import group, narrate, progress, timing
from disttrain_operator.core.actions import Action, DeleteJob, DeletePod, Plan
from disttrain_operator.core.conditions import Type, find, is_true
from disttrain_operator.core.model import CleanPodPolicy, Pod, Status, World

STOP_GRACE = timedelta(seconds=15)
"""After the end the agents are told to stop and exit by themselves, so that their pods keep the logs; what still runs
after this long is deleted."""


def is_finished(status: Status) -> bool:
    """Nothing will be tried again."""
    return is_true(status.conditions, Type.SUCCEEDED) or is_true(status.conditions, Type.FAILED)


def succeed(world: World, status: Status, now: datetime) -> Plan:
    """Every worker ended with 0."""
    step = f" at step {status.progress.step}" if status.progress is not None else ""
    recoveries = "1 recovery" if status.recoveries == 1 else f"{status.recoveries} recoveries"
    message = f"all {len(group.seats(world.job))} workers finished{step} after {recoveries}"
    reason, ended = "WorkersFinished", status.progress.ended if status.progress is not None else None
    if ended is not None:
        reason, message = _word(ended.reason), f"{message}: {ended.message}"
    status = narrate.with_condition(world, status, Type.SUCCEEDED, True, reason, message, now)
    return _ended(world, status, now, "Succeeded", message)


def _word(reason: str) -> str:
    """A condition's reason has a fixed form, and an agent may say anything."""
    return reason if reason.isascii() and reason.isalnum() and reason[:1].isalpha() else "WorkersFinished"


def fail(world: World, status: Status, now: datetime, reason: str, message: str) -> Plan:
    """It cannot go on; `message` says why and what to do."""
    status = narrate.with_condition(world, status, Type.FAILED, True, reason, message, now)
    status = narrate.with_condition(world, status, Type.SUCCEEDED, False, reason, message, now)
    return _ended(world, status, now, reason, message)


def _ended(world: World, status: Status, now: datetime, reason: str, message: str) -> Plan:
    for kind in (Type.RUNNING, Type.RESTARTING, Type.STANDBY_READY):
        if find(status.conditions, kind) is not None:
            status = narrate.with_condition(world, status, kind, False, "Finished", message, now)
    return Plan(status=replace(status, completion_time=now, restart_after=None), wake_at=now, reason=message)


def clean_up(world: World, now: datetime) -> Plan:
    """After the end: pods by policy, the job itself by its time to live."""
    job = world.job
    status = replace(progress.fold(world, now), workers=job.status.workers, last_recovery=job.status.last_recovery)
    expiry = timing.expiry(job)
    if expiry is not None and expiry <= now:
        return Plan(status=status, actions=(DeleteJob(),), reason="time to live is over")
    actions, wake = tuple(_remove(world, now)), expiry
    if any(p.exit is None for p in world.pods) and job.status.completion_time is not None:
        wake = timing.earliest(expiry, job.status.completion_time + STOP_GRACE)
    return Plan(
        status=status, actions=actions, wake_at=wake if wake is not None and wake > now else expiry, reason="finished"
    )


def _remove(world: World, now: datetime) -> Iterator[Action]:
    job = world.job
    policy, ended = job.spec.clean_pod_policy, job.status.completion_time or now
    seated = group.seated(world)
    others = [p for p in world.pods if not p.foreign and p not in seated]
    if policy is CleanPodPolicy.NONE:
        yield from group.stops(job, others, "the job has finished")  # a standby would wait for ever
        return
    if policy is CleanPodPolicy.ALL:
        yield from (_delete(p) for p in (*seated, *others) if not p.deleting)
        return
    yield from (_delete(p) for p in others if not p.deleting)  # they have trained nothing: no log to keep
    if now < timing.due(ended, STOP_GRACE, now):
        yield from group.stops(job, seated, "the job has finished")
        return
    yield from (_delete(p) for p in seated if p.exit is None and not p.deleting)


def _delete(pod: Pod) -> DeletePod:
    return DeletePod(pod.name, pod.uid)


def suspend(world: World, now: datetime) -> Plan:
    """Remove the pods; SIGTERM makes their ranks save a checkpoint first."""
    status = progress.fold(world, now)
    mine = [p for p in world.pods if not p.foreign]
    actions = tuple(_delete(p) for p in mine if not p.deleting)
    if mine:
        message = f"waiting for {len(mine)} pods to save and end"
        if find(status.conditions, Type.RUNNING) is not None:
            status = narrate.with_condition(world, status, Type.RUNNING, False, "Suspending", message, now)
        status = narrate.with_condition(world, status, Type.SUSPENDED, False, "Suspending", message, now)
    else:
        message = f"suspended{_where(status)}: set spec.suspend to false to go on"
        for kind in (Type.RUNNING, Type.WORKERS_READY, Type.STANDBY_READY):
            if find(status.conditions, kind) is not None:
                status = narrate.with_condition(world, status, kind, False, "Suspended", message, now)
        status = replace(status, start_time=None, restart_after=None, replacing=())
        status = narrate.with_condition(world, status, Type.SUSPENDED, True, "Suspended", message, now)
    return Plan(status=status, actions=actions, reason=message)


def _where(status: Status) -> str:
    """Where training stopped, and what of it was not saved in time."""
    if status.progress is None:
        return ""
    saved = status.checkpoint.step if status.checkpoint is not None else 0
    lost = max(0, status.progress.step - saved)
    return f" at step {status.progress.step}, {lost} {'step' if lost == 1 else 'steps'} lost"


def was_suspended(status: Status) -> bool:
    """Whether a resume has to be written down."""
    found = find(status.conditions, Type.SUSPENDED)
    return found is not None and found.reason in ("Suspended", "Suspending")


def resume(world: World, now: datetime) -> Plan:
    """A new incarnation, not charged to the budget; its pods are all new and sit in order."""
    status, message = world.job.status, "resumed"
    status = narrate.with_condition(world, status, Type.SUSPENDED, False, "Resumed", message, now)
    if find(status.conditions, Type.RUNNING) is not None:
        status = narrate.with_condition(world, status, Type.RUNNING, False, "Starting", message, now)
    dead = tuple(p.uid for p in world.pods if not p.foreign)
    status = replace(
        status,
        incarnation=status.incarnation + 1,
        start_time=now,
        replacing=dead,
        seats=group.in_order(world.job),
        standby_trouble=None,
    )
    return Plan(status=status, wake_at=now, reason=message)
