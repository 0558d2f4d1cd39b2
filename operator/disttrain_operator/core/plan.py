"""The whole life of a job, top to bottom. Pure: the world in, the answer out.

Intent first: an answer either changes the durable numbers (incarnation, attempts, replacing, the end) or acts on pods,
never both. A crash between the status write and the actions is repaired by the next pass, whoever makes it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import VICTIM_SECONDS
from disttrain_operator.core import (
    admission,
    ahead,
    conditions,
    elastic,
    failure,
    finish,
    goodput,
    group,
    narrate,
    progress,
    restart,
    standby,
    timing,
)
from disttrain_operator.core.actions import Action, CreateClaim, CreateService, Plan
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.failure import Found
from disttrain_operator.core.model import Pod, Status, World


def plan(world: World, now: datetime) -> Plan:
    """What the job becomes, what to do, what to say, when to look again."""
    decided = _decide(world, now)
    status = replace(decided.status, state=narrate.state(decided.status))
    if decided.status is not world.job.status:  # a job that is not ours is not clocked either
        ledger = goodput.stalled(status.goodput, world.job.status.checkpoint, status.checkpoint, now)
        status = replace(status, goodput=goodput.turn(ledger, goodput.bucket_of(status), now))
    said = narrate.events(world.job.status, status)
    return replace(decided, status=status, events=decided.events + said)


def _decide(world: World, now: datetime) -> Plan:
    job, status = world.job, world.job.status
    if job.deleting or job.spec.managed_by not in (None, admission.OUR_NAME):
        return Plan(status=status, reason="not ours to touch")
    if finish.is_finished(status):
        return finish.clean_up(world, now)
    if job.spec.suspend:
        return finish.suspend(world, now)
    if finish.was_suspended(status) and status.incarnation > 0:
        return finish.resume(world, now)
    if status.incarnation == 0:
        return _admit(world, now)
    if (deadline := timing.active_deadline(job)) is not None and deadline <= now:
        message = f"active for longer than spec.activeDeadlineSeconds ({_seconds(job.spec.active_deadline)} s)"
        return finish.fail(world, progress.fold(world, now), now, "DeadlineExceeded", message)
    if (pod := ahead.ahead(world)) is not None:
        return ahead.catch_up(world, pod, now)
    if found := failure.failures(world):
        return _failed(world, found, now)
    if (stuck := failure.deadlock(world)) is not None:
        return restart.restart(world, stuck, (), now)
    return _go_on(world, now)


def _admit(world: World, now: datetime) -> Plan:
    """The first incarnation is written down before anything is made."""
    job, status = world.job, replace(world.job.status, observed_generation=world.job.generation)
    if finish.was_suspended(status):
        status = narrate.with_condition(world, status, Type.SUSPENDED, False, "Resumed", "resumed", now)
    if no := admission.refusal(world):
        status = narrate.with_condition(world, status, Type.ADMITTED, False, no.reason, no.message, now)
        return Plan(status=status, wake_at=now + timing.CLAIM_RETRY if no.waits else None, reason=no.message)
    message = f"{job.spec.workers} workers"
    status = narrate.with_condition(world, status, Type.ADMITTED, True, "Accepted", f"accepted: {message}", now)
    return Plan(
        status=replace(status, incarnation=1, start_time=now, seats=group.in_order(job)),
        wake_at=now,
        reason=f"start incarnation 1 with {message}",
    )


def _failed(world: World, found: tuple[Found, ...], now: datetime) -> Plan:
    """Somebody failed: while only victims have spoken, wait for the culprit's word; then charge and restart."""
    cause = failure.root_cause(found)
    if cause.is_victim and (silent := failure.suspects(world)):
        gone = failure.gone(world)
        if not gone:
            return _wait_for(world, silent, cause, now)
        cause = failure.lost(gone[0])
        found = (*found, *(failure.lost(p) for p in gone))
    elif cause.is_victim and cause.seconds_ago < VICTIM_SECONDS and (quiet := failure.unheard(world)):
        return _any_moment(world, quiet, cause, now) or _wait_for(world, quiet, cause, now)
    return restart.restart(world, cause, _doomed(world, found), now)


_SETTLE = timedelta(seconds=VICTIM_SECONDS)
"""Also as often as the kubelet looks at its containers."""


_MOMENT = timedelta(seconds=0.1)
"""The culprit's word mostly comes within milliseconds of a victim's."""


def _wait_for(world: World, pods: tuple[Pod, ...], cause: Found, now: datetime) -> Plan:
    plan = _go_on(world, now, acting=False)
    wake = timing.earliest(plan.wake_at, now + _SETTLE)
    return replace(plan, wake_at=wake, reason=_waiting(pods, cause))


def _any_moment(world: World, pods: tuple[Pod, ...], cause: Found, now: datetime) -> Plan | None:
    """Write nothing yet: the word that is awaited would have to wait for that write. None: a moment has gone by, or
    nobody is there whose word grows older."""
    left = _MOMENT - timedelta(seconds=cause.seconds_ago)
    if left <= timedelta(0) or any(p.exit is not None for p in group.seated(world)):
        return None
    return Plan(status=world.job.status, wake_at=now + min(left, _MOMENT), reason=_waiting(pods, cause))


def _waiting(pods: tuple[Pod, ...], cause: Found) -> str:
    return f"{cause.message}; waiting for news of {', '.join(p.name for p in pods)}"


def _doomed(world: World, found: tuple[Found, ...]) -> tuple[str, ...]:
    """Members that cannot be used again: ended, lost, or on their way out. A pod whose ranks failed but whose agent lives stays."""
    gone = {f.pod_uid for f in found if f.failure_class in (FailureClass.NODE, FailureClass.POD)}
    return tuple(p.uid for p in group.seated(world) if p.exit or p.lost or p.deleting or p.uid in gone)


def _go_on(world: World, now: datetime, *, acting: bool = True) -> Plan:
    """Nothing has failed: keep the children there, the group together, the status true."""
    job, status = world.job, progress.fold(world, now)
    present = {p.uid for p in world.pods}
    status = replace(status, replacing=tuple(u for u in status.replacing if u in present))
    status = standby.replaced(world, status, now)
    status = narrate.observed(world, status, now)
    finished = [p for p in group.members(world).values() if group.is_finished(p, status.incarnation)]
    if len(finished) == len(group.seats(job)):
        return finish.succeed(world, status, now)
    if (deadline := _startup(world)) is not None and deadline <= now:
        return finish.fail(world, status, now, "StartupDeadlineExceeded", _not_started(world, status))
    change = elastic.resize(world, status, now) if acting else None
    if change is not None and change.at <= now:
        return elastic.resized(world, status, change.seats, now)
    held = timing.is_held(status, now)
    together = None if held or group.unequal(world) else group.membership(world)
    actions: tuple[Action, ...] = (
        (*_children(world), *group.replacements(world, now), *group.assignments(world, together)) if acting else ()
    )
    wake = timing.earliest(
        status.restart_after if held else None,
        timing.active_deadline(job),
        deadline,
        standby.wake_at(world, status, now),
        failure.silence_ends(world, now),
        change.at if change is not None else None,
    )
    return Plan(status=status, actions=actions, wake_at=wake, reason=_sentence(status, held))


def _children(world: World) -> tuple[Action, ...]:
    wanted: list[Action] = [] if world.service_exists else [CreateService()]
    claim = world.job.spec.claim
    if claim is not None and claim.size is not None and world.claim is None:
        wanted.append(CreateClaim(claim))
    return tuple(wanted)


def _startup(world: World) -> datetime | None:
    """Only a job that has never run can miss its startup deadline."""
    never = world.job.status.progress is None and not failure.group_formed(world) and world.job.status.recoveries == 0
    return timing.startup_deadline(world.job) if never else None


def _not_started(world: World, status: Status) -> str:
    ready = conditions.find(status.conditions, Type.WORKERS_READY)
    because = f": {ready.message}" if ready is not None else ""
    return f"not running within spec.startupDeadlineSeconds ({_seconds(world.job.spec.startup_deadline)} s){because}"


def _sentence(status: Status, held: bool) -> str:
    if held:
        return "backing off before the next incarnation"
    running = conditions.find(status.conditions, Type.RUNNING)
    if running is not None and running.status == "True":
        return running.message
    ready = conditions.find(status.conditions, Type.WORKERS_READY)
    return ready.message if ready is not None else "starting"


def _seconds(length: timedelta | None) -> int:
    return int(length.total_seconds()) if length is not None else 0
