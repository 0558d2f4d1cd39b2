"""Who failed, whose fault it is, and what is done about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from disttrain_contract import exits
from disttrain_contract.failures import NEVER_CHARGED, FailureClass
from disttrain_contract.messages import AgentState, Failure
from disttrain_contract.stall import Stall, everybody_waits, suspicion
from disttrain_operator.core import group
from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.core.model import Job, Pod, Spec, Verdict, World

LOST_SECONDS = 7.0
"""A pod whose group has failed or waits for it, and whose stream has been silent for this long is lost: lease (6 s) plus a
second. Its node may be gone, so it is force-deleted; the incarnation fences it if it comes back."""

UNSEEN_SECONDS = 30.0
"""The same for a group of which nobody can say whether it waits (scripts give no signs of life). An operator that loses its
stream to one pod while all others keep theirs, and for so long, has lost the pod."""

VICTIM_CODES = frozenset({143})
"""A rank that ended by the SIGTERM that another worker's shutdown spread is not the cause; whose own pod is shut down, is."""

_GONE = frozenset({FailureClass.POD, FailureClass.NODE})

SUSPICIOUS = frozenset({FailureClass.SIGNAL, FailureClass.HANG, FailureClass.STORAGE, FailureClass.DIVERGENCE})
"""What bad hardware, a bad driver or a bad mount looks like from inside a pod."""

_DIED = (False, False, -1, -1)
"""More suspicious than any that hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One failed worker of the present incarnation."""

    index: int
    pod: str
    pod_uid: str | None
    node: str | None
    failure_class: FailureClass
    message: str
    exit_code: int | None = None
    rank: int | None = None
    traceback: str | None = None
    step: int | None = None
    seconds_ago: float = 0.0
    stall: Stall | None = None
    node_gone: bool = False
    """Its node does not answer, and nobody had asked the pod to go."""

    @property
    def is_victim(self) -> bool:
        """Failed because somebody else did."""
        waited = self.stall is not None and self.stall.waits
        spread = self.exit_code in VICTIM_CODES and self.failure_class not in _GONE
        return waited or spread or self.failure_class is FailureClass.NETWORK

    @property
    def is_suspicious(self) -> bool:
        """As a cause: the node may have done it, or the program. Memory, code and numbers are the job's own matter."""
        return not self.is_victim and self.failure_class in SUSPICIOUS


def failures(world: World) -> tuple[Found, ...]:
    """Every member that has failed in the present incarnation and has not been charged yet. A standby is no member."""
    job, seated = world.job, group.seated(world)
    found = [_of_pod(p, job) for p in seated if p.uid not in job.status.replacing]
    if group_formed(world):
        there = {p.index for p in seated}
        found += [_missing(i, job) for i in group.seats(job) if i not in there]
    found += [lost(p) for p in gone(world, missed_after(world))]
    return tuple(f for f in found if f is not None)


def is_silent(pod: Pod, seconds: float = LOST_SECONDS) -> bool:
    """Its agent has been heard of and then not for so long that its node counts as gone."""
    view = pod.agent
    return pod.exit is None and view is not None and not view.connected and view.silent_seconds >= seconds


def gone(world: World, seconds: float = LOST_SECONDS) -> list[Pod]:
    """Members that have been silent for so long, and with each the others of its node whose streams were cut: two heartbeats
    of one node differ by up to two seconds, and a group that forms in between would form in vain."""
    there = group.members(world).values()
    silent = [p for p in there if is_silent(p, seconds)]
    nodes = {p.node for p in silent if p.node is not None}
    return [p for p in there if p in silent or (p.node in nodes and is_silent(p, 0.0))]


def missed_after(world: World) -> float:
    """How long a member may be silent although no rank has failed. A group that trains does not need our streams: only when
    all who are heard wait for somebody is it the silent one. When nobody is heard, it is we who are cut off."""
    if not group_formed(world):
        return LOST_SECONDS  # no rank of theirs would ever miss it
    n = world.job.status.incarnation
    heard = [
        p.report
        for p in group.members(world).values()
        if p.agent is not None and p.agent.connected and not group.is_finished(p, n)
    ]
    waiting = {r.waiting if r is not None and r.incarnation == n else False for r in heard}
    if not waiting or False in waiting:
        return math.inf
    return UNSEEN_SECONDS if None in waiting else LOST_SECONDS


def silence_ends(world: World, now: datetime) -> datetime | None:
    """When the next member counts as lost; no event will announce it."""
    limit = missed_after(world)
    if limit == math.inf:
        return None
    views = (p.agent for p in group.members(world).values() if p.exit is None)
    left = (limit - v.silent_seconds for v in views if v is not None and not v.connected)
    soonest = min((s for s in left if s > 0), default=None)
    return now + timedelta(seconds=soonest) if soonest is not None else None


def group_formed(world: World) -> bool:
    """Whether the present incarnation has started: then every member matters."""
    return is_true(world.job.status.conditions, Type.RUNNING)


def suspects(world: World) -> tuple[Pod, ...]:
    """Members that may be dead though nobody has said so yet: stream lost, or shutting down."""
    return tuple(
        p
        for p in group.members(world).values()
        if p.exit is None and (p.deleting or p.agent is None or not p.agent.connected)
    )


def unheard(world: World) -> tuple[Pod, ...]:
    """Members whose agents are connected and have not said that anything is wrong."""
    n = world.job.status.incarnation
    reports = ((p, p.report) for p in group.members(world).values() if p.exit is None)
    return tuple(p for p, r in reports if r is not None and r.incarnation == n and r.state is AgentState.RUNNING)


def root_cause(found: tuple[Found, ...]) -> Found:
    """The one to blame: a lost or failed worker before its victims; one that died before one that hung, for a death is a
    fact and a hang a conclusion; of hung ones the most suspicious; then the earliest."""
    return min(found, key=lambda f: (f.is_victim, suspicion(f.stall) if f.stall else _DIED, -f.seconds_ago, f.index))


def deadlock(world: World) -> Found | None:
    """All ranks of the group wait for each other, so none of their agents has anybody to blame: the furthest behind stands
    for all. A network that swallows packets looks like this, and ranks that disagree on what to do next."""
    n = world.job.status.incarnation
    members = {
        at: p for at, p in group.members(world).items() if p.exit is None and p.agent is not None and p.agent.connected
    }
    reports = [members[at].report if at in members else None for at in range(len(group.seats(world.job)))]
    stalls = [
        r.stall if r is not None and r.incarnation == n and r.state is AgentState.RUNNING else None for r in reports
    ]
    if not group_formed(world) or not everybody_waits(stalls):
        return None
    at, stall = min(((i, s) for i, s in enumerate(stalls) if s is not None), key=lambda found: suspicion(found[1]))
    pod = members[at]
    return Found(
        index=pod.index, pod=pod.name, pod_uid=pod.uid, node=pod.node, failure_class=FailureClass.HANG, step=stall.step, stall=stall,
        message=f"all ranks wait for each other after step {stall.step}, {pod.name} in its {stall.phase.word} phase: "
        "the network between the workers loses packets, or ranks disagree on what to do next",
    )  # fmt: skip


def verdict(spec: Spec, found: Found) -> Verdict:
    """The first rule that matches; else by class."""
    for rule in spec.rules:
        if found.exit_code in rule.exit_codes or (rule.reason is not None and rule.reason is found.failure_class):
            return rule.action
    if found.failure_class is FailureClass.ENTRYPOINT:
        return Verdict.FAIL
    return Verdict.IGNORE if found.failure_class in NEVER_CHARGED else Verdict.RESTART_GROUP


def lost(pod: Pod) -> Found:
    """A pod that nobody has heard of for too long."""
    silent = pod.agent.silent_seconds if pod.agent is not None else LOST_SECONDS
    return Found(
        index=pod.index, pod=pod.name, pod_uid=pod.uid, node=pod.node, failure_class=FailureClass.NODE, step=_step(pod),
        node_gone=not pod.deleting, message=f"no word from pod {pod.name} for {silent:.0f} s: its node {pod.node or '?'} is gone or cut off",
    )  # fmt: skip


def _of_pod(pod: Pod, job: Job) -> Found | None:
    n, report = job.status.incarnation, pod.report
    if pod.exit is None and pod.lost is None:
        if report is None or report.incarnation != n or report.state is not AgentState.FAILED or report.failure is None:
            return None
        return _told(pod, report.failure)
    if report is not None and report.incarnation < n and report.state is AgentState.FAILED:
        return None  # its failure belongs to an incarnation that has been charged
    if pod.exit is not None and pod.exit.exit_code == 0:
        return None
    return _dead(pod, n)


def _told(pod: Pod, failure: Failure) -> Found:
    return Found(
        index=pod.index, pod=pod.name, pod_uid=pod.uid, node=pod.node, failure_class=failure.failure_class,
        message=failure.message, exit_code=failure.exit_code, rank=failure.rank, traceback=failure.traceback or None,
        step=failure.step if failure.step is not None else _step(pod), seconds_ago=failure.seconds_ago, stall=failure.stall,
    )  # fmt: skip


def _dead(pod: Pod, incarnation: int) -> Found:
    report = pod.report
    if report is not None and report.failure is not None and report.incarnation == incarnation:
        return _told(pod, report.failure)
    kind, message = why_dead(pod)
    return Found(
        index=pod.index, pod=pod.name, pod_uid=pod.uid, node=pod.node, failure_class=kind, message=message,
        exit_code=pod.exit.exit_code if pod.exit else None, step=_step(pod),
        node_gone=kind is FailureClass.NODE and pod.unreachable and not pod.deleting,
    )  # fmt: skip


def why_dead(pod: Pod) -> tuple[FailureClass, str]:
    """The class and a sentence, for a pod that is dead or on its way out."""
    ended = pod.exit
    if ended is not None and ended.reason == "OOMKilled":
        return (
            FailureClass.OOM,
            f"pod {pod.name} was killed for lack of memory (OOMKilled): raise spec.resources.limits.memory or use less",
        )
    if pod.lost is not None:
        return FailureClass.NODE, pod.lost
    if pod.deleting:
        return FailureClass.POD, f"pod {pod.name} was deleted"
    assert ended is not None
    return _class_of(
        ended.exit_code, ended.reason
    ), f"pod {pod.name}: {exits.describe(ended.exit_code)}{_because(ended.message or ended.reason)}"


def _class_of(exit_code: int, reason: str) -> FailureClass:
    if reason in ("ContainerCannotRun", "StartError", "CreateContainerError"):
        return FailureClass.IMAGE
    match exit_code:
        case exits.Exit.USER_ERROR:
            return FailureClass.ENTRYPOINT
        case exits.Exit.STORAGE_ERROR:
            return FailureClass.STORAGE
        case code if code > 128:
            return FailureClass.SIGNAL
    return FailureClass.CODE


def _because(text: str) -> str:
    return f": {text}" if text else ""


def _missing(index: int, job: Job) -> Found:
    name = f"{job.name}-{index}"
    return Found(
        index=index,
        pod=name,
        pod_uid=None,
        node=None,
        failure_class=FailureClass.POD,
        message=f"pod {name} was deleted",
    )


def _step(pod: Pod) -> int | None:
    report = pod.report
    return report.progress.step if report is not None and report.progress is not None else None
