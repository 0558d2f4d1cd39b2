"""The operator's planner, asked in advance: the same function that decides on a cluster, in worlds made up here. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure, Progress, Report
from disttrain_operator.core import conditions, finish, group
from disttrain_operator.core.actions import Action, Plan
from disttrain_operator.core.conditions import Type
from disttrain_operator.core.model import AgentView, Claim, Job, Pod, World
from disttrain_operator.core.plan import plan

START = datetime(2030, 1, 1, tzinfo=UTC)
"""Any moment will do."""
MANY = 2000
"""More failures than a budget can allow."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the planner answers to one failure of a running job."""

    reason: str
    ends: bool
    charged: bool
    promotes: bool = False
    """A standby takes the place of the lost pod."""
    workers: int = 0
    """In the next incarnation's group."""


def first_actions(job: Job) -> tuple[Action, ...]:
    """What is made when the job is submitted."""
    world = World(job=job, claim=_given_claim(job))
    for n in range(3):  # intent first: the incarnation is written, then acted upon
        decided = plan(world, _at(n))
        if decided.actions:
            return decided.actions
        world = replace(world, job=replace(job, status=decided.status))
    return ()


def after_failure(job: Job, kind: FailureClass, exit_code: int = 1) -> Outcome:
    """Rank 0 of the last worker of a running job fails."""
    running = _running(job)
    return _outcome(running, plan(_failing(running, kind, exit_code), _at(10)))


def after_pod_loss(job: Job) -> Outcome:
    """The last worker's pod vanishes from a running job."""
    running = _running(job)
    left = tuple(p for p in running.pods if p.index != job.spec.workers - 1)
    return _outcome(running, plan(replace(running, pods=left), _at(10)))


def failures_until_the_end(job: Job, kind: FailureClass = FailureClass.CODE) -> int | None:
    """Which failure of this kind ends the job, with progress in between; None: no number of them does."""
    world = _running(job)
    for n in range(1, MANY):
        decided = plan(_failing(world, kind, 1), _at(10 * n))
        if finish.is_finished(decided.status):
            return n
        if decided.status.attempts == world.job.status.attempts:
            return None  # not charged: it can go on like this for ever
        world = _running(replace(job, status=replace(decided.status, restart_after=None, replacing=())))
    return None


def _outcome(before: World, decided: Plan) -> Outcome:
    charged = decided.status.attempts > before.job.status.attempts
    return Outcome(
        decided.reason,
        finish.is_finished(decided.status),
        charged,
        promotes=bool(set(decided.status.seats) - set(group.seats(before.job))),
        workers=len(decided.status.seats),
    )


def _running(job: Job) -> World:
    """Every worker of the present incarnation trains, every standby waits."""
    incarnation = max(1, job.status.incarnation)
    status = replace(job.status, incarnation=incarnation, start_time=START, seats=group.in_order(job))
    for kind in (Type.ADMITTED, Type.RUNNING):
        status = replace(
            status,
            conditions=conditions.put(
                status.conditions, kind, True, "Preview", "", generation=job.generation, now=START
            ),
        )
    trains = Report(incarnation=incarnation, state=AgentState.RUNNING, progress=Progress(step=10 * incarnation))
    waits = Report(incarnation=incarnation, state=AgentState.IDLE)
    pods = tuple(
        Pod(
            name=f"{job.name}-{index}", uid=f"preview-{index}", index=index, incarnation=incarnation, ip="192.0.2.1", node="its-node",
            agent=AgentView(report=trains if index < job.spec.workers else waits, connected=True),
        )
        for index in group.wanted(job)
    )  # fmt: skip
    return World(job=replace(job, status=status), pods=pods, claim=_given_claim(job), service_exists=True)


def _failing(world: World, kind: FailureClass, exit_code: int) -> World:
    at = world.job.spec.workers - 1
    last = world.pods[at]
    failure = Failure(
        rank=last.index, local_rank=0, exit_code=exit_code, failure_class=kind, message="its program failed"
    )
    report = Report(incarnation=world.job.status.incarnation, state=AgentState.FAILED, failure=failure)
    failed = replace(last, agent=AgentView(report=report, connected=True))
    return replace(world, pods=(*world.pods[:at], failed, *world.pods[at + 1 :]))


def _given_claim(job: Job) -> Claim | None:
    """A claim that the job names is taken to be there; one that it asks for is not made yet."""
    wanted = job.spec.claim
    return (
        Claim(name=wanted.name, access_modes=("ReadWriteMany",)) if wanted is not None and wanted.size is None else None
    )


def _at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)
