"""The group of the present incarnation: who is in it, who is missing, who stands by, what the agents are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import count, islice

from disttrain_contract import topology
from disttrain_contract.messages import AgentState, Assignment, Membership
from disttrain_operator.core import marks, timing
from disttrain_operator.core.actions import Assign, CreatePod, DeletePod
from disttrain_operator.core.model import Job, Pod, World


def in_order(job: Job) -> tuple[int, ...]:
    """The seats of a group whose pods are all new: pod i in place i."""
    return tuple(range(job.spec.workers))


def seats(job: Job) -> tuple[int, ...]:
    """Group position → worker index of the pod that holds it."""
    return job.status.seats or in_order(job)


def wanted(job: Job) -> tuple[int, ...]:
    """The worker indices that should have a pod: those that have a seat, then the lowest that are free."""
    taken = seats(job)
    held, more = frozenset(taken), job.spec.workers + job.spec.standby - len(taken)
    return (*taken, *islice((i for i in count() if i not in held), max(0, more)))


def absent(job: Job) -> int:
    """How many workers the group is short of."""
    return max(0, job.spec.workers - len(seats(job)))


def seated(world: World) -> tuple[Pod, ...]:
    """The pods that hold a seat, in whatever state they are."""
    held = frozenset(seats(world.job))
    return tuple(p for p in world.pods if not p.foreign and p.index in held)


def members(world: World) -> dict[int, Pod]:
    """Group position → its pod, without the pods that are on their way out."""
    doomed, place = frozenset(world.job.status.replacing), {i: at for at, i in enumerate(seats(world.job))}
    found = (p for p in seated(world) if p.uid not in doomed and not is_outdated(p, world.job))
    return {place[p.index]: p for p in sorted(found, key=lambda p: place[p.index])}


def unseated(world: World) -> list[Pod]:
    """Pods that are wanted but hold no seat, in whatever state they are, by index. Those on their way out are not among them."""
    doomed, free = frozenset(world.job.status.replacing), frozenset(wanted(world.job)) - frozenset(seats(world.job))
    found = (p for p in world.pods if not p.foreign and p.index in free and p.uid not in doomed)
    return sorted(found, key=lambda p: p.index)


def standbys(world: World) -> list[Pod]:
    """Those of them that can take a seat now."""
    return [p for p in unseated(world) if is_ready(p)]


def is_outdated(pod: Pod, job: Job) -> bool:
    """Ended in an earlier incarnation: it is deleted so that its name becomes free."""
    if pod.exit is None and pod.lost is None:
        return False
    report = pod.report
    return report is not None and report.incarnation < job.status.incarnation


def is_ready(pod: Pod) -> bool:
    """Its agent is connected and can be told to start."""
    return (
        pod.ip is not None and not pod.deleting and pod.exit is None and pod.agent is not None and pod.agent.connected
    )


def is_finished(pod: Pod, incarnation: int) -> bool:
    """All its ranks ended with 0 in this incarnation."""
    if pod.exit is not None:
        return pod.exit.exit_code == 0 and (pod.exit.report is None or pod.exit.report.incarnation == incarnation)
    report = pod.report
    return report is not None and report.incarnation == incarnation and report.state is AgentState.FINISHED


def is_active(pod: Pod, incarnation: int) -> bool:
    """Its ranks are training in this incarnation."""
    report = pod.report
    return (
        pod.exit is None
        and report is not None
        and report.incarnation == incarnation
        and report.state is AgentState.RUNNING
    )


def membership(world: World) -> Membership | None:
    """The group, once everybody is there. A pure function of job and pods, so it is the same whoever computes it."""
    job, group = world.job, members(world)
    if len(group) < len(seats(job)):
        return None
    if not all(is_ready(p) or is_finished(p, job.status.incarnation) for p in group.values()):
        return None
    leader = group[0]
    if leader.ip is None:
        return None
    return Membership(
        incarnation=job.status.incarnation,
        workers=len(group),
        processes_per_worker=processes_per_worker(group),
        master_addr=leader.ip,
        master_port=topology.master_port(job.status.incarnation),
    )


def pod_of_rank(world: World, rank: int) -> Pod | None:
    """The member that runs it."""
    found = members(world)
    return found.get(rank // processes_per_worker(found)) if 0 in found else None


def processes_per_worker(group: dict[int, Pod]) -> int:
    """As the agents count them (GPUs are counted in the pod). Unequal pods are reported by `unequal`."""
    report = group[0].report
    return report.processes if report is not None else 1


def unequal(world: World) -> str | None:
    """A sentence when the pods differ in ranks: such a group cannot form."""
    counts = {p.name: p.report.processes for p in members(world).values() if p.report is not None and is_ready(p)}
    if len(set(counts.values())) <= 1:
        return None
    words = ", ".join(f"{name} has {n}" for name, n in sorted(counts.items()))
    return f"workers differ in their number of processes ({words}): set spec.processesPerWorker or use equal nodes"


def assignments(world: World, group: Membership | None) -> Iterator[Assign]:
    """What each connected agent should do now. An agent that does it already is left alone."""
    job, n = world.job, world.job.status.incarnation
    for place, pod in members(world).items():
        if is_ready(pod) and not is_active(pod, n):
            join = Assignment(job_uid=job.uid, incarnation=n, membership=group, group_rank=place)
            yield Assign(pod.uid, join)
    for pod in standbys(world):
        if not _waits(pod, n):
            yield Assign(pod.uid, Assignment(job_uid=job.uid, incarnation=n))


def _waits(pod: Pod, incarnation: int) -> bool:
    report = pod.report
    return report is not None and report.incarnation == incarnation and report.state is AgentState.IDLE


def stops(job: Job, pods: Iterable[Pod], reason: str) -> Iterator[Assign]:
    """Tell every connected agent to end."""
    for pod in pods:
        if is_ready(pod):
            yield Assign(pod.uid, Assignment(job_uid=job.uid, incarnation=job.status.incarnation, stop=reason))


def replacements(world: World, now: datetime) -> Iterator[CreatePod | DeletePod]:
    """Delete what is dead and charged, or no longer wanted; create what is missing. A name is free only when its old pod is gone."""
    job, indices = world.job, frozenset(wanted(world.job))
    for pod in world.pods:
        if pod.foreign or pod.deleting and not is_stuck(pod):
            continue
        if pod.uid in job.status.replacing or pod.index not in indices or is_outdated(pod, job):
            yield DeletePod(pod.name, pod.uid, force=is_stuck(pod) or pod.exit is not None)
    held, absent_pods = frozenset(seats(job)), missing(world)
    avoid = marks.avoided(world, now) if absent_pods else ()
    for index in absent_pods:
        if index in held or not timing.standby_is_held(job.status, now):
            yield CreatePod(index, job.status.incarnation, avoid)


def missing(world: World) -> list[int]:
    """Worker indices that should have a pod and have none; the seats first."""
    taken = {p.index for p in world.pods}
    return [i for i in wanted(world.job) if i not in taken]


def is_stuck(pod: Pod) -> bool:
    """Nobody will confirm its end: its node is gone."""
    return pod.lost is not None or (pod.exit is None and pod.agent is not None and not pod.agent.connected)
