"""One failure: charge it, write down the next incarnation, or end the job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from disttrain_operator.core import budget, failure, finish, goodput, marks, narrate, progress, seating, timing
from disttrain_operator.core.actions import Event, Plan
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.failure import Found
from disttrain_operator.core.model import Job, NodeFailure, Recovery, Status, Verdict, World

MAX_CAUSE = 1000
MAX_TRACEBACK = 4000
"""Kept in status after the pods are gone; enough for the frames that matter."""
MAX_AGO = timedelta(seconds=60)
"""An agent's age counter is not trusted beyond that."""


def restart(world: World, cause: Found, doomed: tuple[str, ...], now: datetime) -> Plan:
    """The plan after a failure. `doomed`: pods that cannot be used again."""
    plan = _restart(world, cause, doomed, now)
    return replace(plan, events=(*plan.events, *_newly_avoided(world, plan.status, now)))


def _restart(world: World, cause: Found, doomed: tuple[str, ...], now: datetime) -> Plan:
    spec, status = world.job.spec, progress.fold(world, now)
    verdict, before = failure.verdict(spec, cause), status.last_recovery
    charged = verdict is Verdict.RESTART_GROUP
    event = _recorded(world.job, status, cause, now)
    account = budget.charge(spec, status, cause, event.step, charged=charged, now=now)
    status = replace(
        status, last_recovery=event, charges=account.charges, charged_step=account.verified_step, repeats=account.repeats,
        attempts=status.attempts + charged, goodput=goodput.detected(status.goodput, now - event.failed_at, now),
        node_failures=_against_node(status, event, cause, verdict, now),
    )  # fmt: skip
    who = f"rank {cause.rank} on {cause.pod}" if cause.rank is not None else cause.pod
    who = f"fire drill {event.drill}: {who}" if event.drill is not None else who
    if verdict is Verdict.FAIL:
        return finish.fail(world, status, now, cause.failure_class, f"{who}: {cause.message}")
    if charged and len(account.charges) > spec.max_failures:
        limit = f"failure {len(account.charges)}, allowed are {spec.max_failures} (spec.recovery.budget.failures)"
        return finish.fail(world, status, now, "BudgetExhausted", f"{limit}; last: {who}: {cause.message}")
    if charged and (sentence := budget.stuck(account, event.step, cause)):
        return finish.fail(world, status, now, "NoProgress", f"{who} {sentence}")
    progressed = before is None or before.recover_seconds is not None
    delay = timing.restart_delay(len(account.charges), charged=charged, progressed=progressed)
    return _next_incarnation(world, status, f"{who}: {cause.message}", doomed, delay, now)


def _against_node(
    status: Status, event: Recovery, cause: Found, verdict: Verdict, now: datetime
) -> tuple[NodeFailure, ...]:
    """What the job holds against nodes from now on. A suspicion that the job's own rules tell to ignore is none."""
    suspicious = cause.is_suspicious and verdict is not Verdict.IGNORE
    if cause.node is None or event.drill is not None or not (cause.node_gone or suspicious):
        return status.node_failures
    return marks.recorded(status.node_failures, NodeFailure(cause.node, cause.failure_class, event.failed_at), now)


def _newly_avoided(world: World, status: Status, now: datetime) -> Iterator[Event]:
    """Said when a mark begins to steer, not at every failure that renews it."""
    before = {m.node for m in marks.steering(world, world.job.status.node_failures, now)}
    for mark in marks.steering(world, status.node_failures, now):
        if mark.node not in before:
            often = "a failure" if mark.failures == 1 else f"{mark.failures} failures"
            minutes = max(1, round(mark.lasts.total_seconds() / 60))
            message = (
                f"{often} of late on node {mark.node}: for the next {minutes} min new worker pods prefer other nodes"
            )
            yield Event("NodeAvoided", message, warning=True)


def _recorded(job: Job, status: Status, cause: Found, now: datetime) -> Recovery:
    seen = status.progress.step if status.progress is not None else None
    ago = min(timedelta(seconds=max(cause.seconds_ago, 0.0)), MAX_AGO)
    return Recovery(
        incarnation=status.incarnation,
        cause=cause.message[:MAX_CAUSE],
        failure_class=cause.failure_class,
        failed_at=now - ago,
        detect_seconds=round(ago.total_seconds(), 3),
        rank=cause.rank,
        pod=cause.pod,
        node=cause.node,
        exit_code=cause.exit_code,
        step=cause.step if cause.step is not None else seen,
        traceback=cause.traceback[-MAX_TRACEBACK:] if cause.traceback else None,
        drill=_drill(job, cause),
    )


def _drill(job: Job, cause: Found) -> str | None:
    """The announced fault, when this failure is the one that it is for. The status is written over the version of the job that
    was planned from, so an announcement that was made before the fault cannot be overlooked."""
    told = job.drill
    return (
        told.fault if told is not None and (told.incarnation, told.pod) == (job.status.incarnation, cause.pod) else None
    )


def _next_incarnation(
    world: World, status: Status, what: str, doomed: tuple[str, ...], delay: timedelta, now: datetime
) -> Plan:
    n, kind = status.incarnation + 1, status.last_recovery.failure_class if status.last_recovery else "Unknown"
    after = f" in {int(delay.total_seconds())} s" if delay else ""
    seats = seating.after_loss(world, doomed)
    message = f"{what}{seating.moves(world, seats)}; incarnation {n} starts{after}"
    status = narrate.with_condition(world, status, Type.RUNNING, False, "Restarting", message, now)
    status = narrate.with_condition(world, status, Type.RESTARTING, True, kind, message, now)
    status = replace(
        status,
        incarnation=n,
        seats=seats,
        recoveries=status.recoveries + 1,
        replacing=seating.replacing(world, seats, doomed),
        restart_after=now + delay if delay else None,
    )
    return Plan(status=status, wake_at=now, reason=message)
