"""The closed set of things a plan can ask for. A new one does not type-check until every place handles it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from disttrain_contract.messages import Assignment
from disttrain_operator.core.model import ClaimSpec, Status


@dataclass(frozen=True, slots=True)
class CreateService:
    """The headless Service of the job."""


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """The checkpoint claim of a job that asks for a size."""

    claim: ClaimSpec


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Worker `index`, made for `incarnation`, on another node than `avoid` where there is a choice."""

    index: int
    incarnation: int
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeletePod:
    """With the UID as precondition. `force`: grace period 0 (its node is gone or its container has ended)."""

    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Assign:
    """Tell the agent of a pod what to do now."""

    pod_uid: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Its time to live is over."""


Action = CreateService | CreateClaim | CreatePod | DeletePod | Assign | DeleteJob


@dataclass(frozen=True, slots=True)
class Event:
    """What a person sees in `kubectl describe`. `warning` makes it a Warning."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole answer: what the job becomes, what to do, what to say, when to look again."""

    status: Status
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None
    reason: str = ""


def describe(action: Action) -> str:
    """One line for logs and `disttrain explain`."""
    match action:
        case CreateService():
            return "create the headless Service"
        case CreateClaim(claim):
            return f"create PersistentVolumeClaim {claim.name} of {claim.size}"
        case CreatePod(index, incarnation, avoid):
            away = f", away from node {', '.join(avoid)}" if avoid else ""
            return f"create worker {index} of incarnation {incarnation}{away}"
        case DeletePod(name, _, force):
            return f"{'force-delete' if force else 'delete'} pod {name}"
        case Assign(pod_uid, assignment):
            what = "stop" if assignment.stop else "join" if assignment.membership else "wait in"
            return f"tell pod {pod_uid} to {what} incarnation {assignment.incarnation}"
        case DeleteJob():
            return "delete the job: its time to live is over"
        case _:
            assert_never(action)
