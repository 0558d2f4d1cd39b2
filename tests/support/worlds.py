"""Builders for the planner's values, so that a story shows only what matters to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Assignment, Checkpoint, Failure, Progress, Report
from disttrain_operator.core.actions import Assign, CreatePod, Plan
from disttrain_operator.core.conditions import Condition, Type, find
from disttrain_operator.core.model import AgentView, Exit, Job, Pod, Spec, Status, World
from disttrain_operator.core.plan import plan

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_job(
    *, workers: int = 3, status: Status | None = None, deleting: bool = False, invalid: str | None = None, **spec: Any
) -> Job:
    return Job(
        namespace="team", name="mnist", uid="job-uid", generation=1, created=NOW, deleting=deleting, invalid=invalid,
        spec=Spec(workers=workers, **spec), status=status or Status(),
    )  # fmt: skip


def running(incarnation: int = 1, **more: Any) -> Status:
    """A status in which the group of the incarnation has formed."""
    up = Condition(type=Type.RUNNING, status="True", reason="Running", message="", since=NOW, observed_generation=1)
    admitted = replace(up, type=Type.ADMITTED, reason="Accepted")
    return Status(incarnation=incarnation, start_time=NOW, conditions=(admitted, up), **more)


def starting(incarnation: int = 1, **more: Any) -> Status:
    return replace(running(incarnation, **more), conditions=running().conditions[:1])


def failed(
    message: str = "ValueError: bad",
    kind: FailureClass = FailureClass.CODE,
    code: int = 1,
    rank: int = 0,
    ago: float = 0.0,
) -> Failure:
    return Failure(
        rank=rank,
        local_rank=0,
        exit_code=code,
        failure_class=kind,
        message=message,
        traceback="Traceback…",
        seconds_ago=ago,
    )


def a_report(
    incarnation: int = 1, state: AgentState = AgentState.RUNNING, step: int | None = None, **more: Any
) -> Report:
    return Report(
        incarnation=incarnation, state=state, progress=Progress(step=step) if step is not None else None, **more
    )


def a_pod(index: int, report: Report | None = None, *, connected: bool = True, silent: float = 0.0, **more: Any) -> Pod:
    agent = AgentView(report=report, connected=connected, silent_seconds=silent) if report is not None else None
    known: dict[str, Any] = dict(
        name=f"mnist-{index}", uid=f"uid-{index}", index=index, incarnation=1, ip=f"198.18.0.{index + 1}", node="node-1"
    )
    return Pod(**{**known, "agent": agent, **more})


def idle(index: int, incarnation: int = 0, **more: Any) -> Pod:
    return a_pod(index, a_report(incarnation, AgentState.IDLE), **more)


def at_work(index: int, incarnation: int = 1, step: int | None = None, **more: Any) -> Pod:
    waiting = more.pop("waiting", False)
    return a_pod(index, a_report(incarnation, AgentState.RUNNING, step, waiting=waiting), **more)


def crashed(index: int, incarnation: int = 1, failure: Failure | None = None, **more: Any) -> Pod:
    return a_pod(index, a_report(incarnation, AgentState.FAILED, failure=failure or failed(rank=index)), **more)


def done(index: int, incarnation: int = 1, **more: Any) -> Pod:
    words = a_report(incarnation, AgentState.FINISHED)
    return a_pod(index, exit=Exit(exit_code=0, reason="Completed", report=words), **more)


def dead(index: int, code: int = 137, reason: str = "Error", report: Report | None = None, **more: Any) -> Pod:
    return a_pod(index, exit=Exit(exit_code=code, reason=reason, report=report), **more)


def a_checkpoint(step: int, incarnation: int = 1, size: int = 0) -> Checkpoint:
    return Checkpoint(
        step=step,
        digest="sha256:ab",
        path="/checkpoints/mnist",
        incarnation=incarnation,
        time="2030-01-01T00:00:00Z",
        bytes=size,
    )


def ask(job: Job, *pods: Pod, now: datetime = NOW, **more: Any) -> Plan:
    more.setdefault("service_exists", True)
    return plan(World(job=job, pods=pods, **more), now)


def condition(answer: Plan, kind: Type) -> Condition:
    found = find(answer.status.conditions, kind)
    assert found is not None, f"no {kind} among {[c.type for c in answer.status.conditions]}"
    return found


def told(answer: Plan) -> dict[str, Assignment]:
    """Pod → what it is told."""
    return {a.pod_uid: a.assignment for a in answer.actions if isinstance(a, Assign)}


def made(answer: Plan) -> list[int]:
    """The indices of the pods that are created."""
    return [a.index for a in answer.actions if isinstance(a, CreatePod)]
