"""The group of the present incarnation: who is in it, who is missing, what its agents are told."""

from __future__ import annotations

from collections.abc import Iterator

from disttrain_contract import topology
from disttrain_contract.messages import AgentState, Assignment, Membership
from disttrain_operator.core.actions import Assign, CreatePod, DeletePod
from disttrain_operator.core.model import Pod, World


def members(world: World) -> dict[int, Pod]:
    """Worker index → its pod, without the pods that are on their way out."""
    doomed = set(world.job.status.replacing)
    return {p.index: p for p in world.pods if not p.foreign and p.uid not in doomed and not is_stale(p, world)}


def is_stale(pod: Pod, world: World) -> bool:
    """Ended in an earlier incarnation, or no longer wanted: it is deleted so that its name becomes free."""
    if pod.index >= world.job.spec.workers:
        return True
    if pod.exit is None and pod.lost is None:
        return False
    report = pod.report
    return report is not None and report.incarnation < world.job.status.incarnation


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
    if len(group) < job.spec.workers:
        return None
    if not all(is_ready(p) or is_finished(p, job.status.incarnation) for p in group.values()):
        return None
    leader = group[0]
    if leader.ip is None:
        return None
    return Membership(
        incarnation=job.status.incarnation,
        workers=job.spec.workers,
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
    """What each connected agent should do now. An agent that already runs the present incarnation is left alone."""
    job = world.job
    for pod in members(world).values():
        if is_ready(pod) and not is_active(pod, job.status.incarnation):
            yield Assign(pod.uid, Assignment(job_uid=job.uid, incarnation=job.status.incarnation, membership=group))


def stops(world: World, reason: str) -> Iterator[Assign]:
    """Tell every connected agent to end."""
    job = world.job
    for pod in world.pods:
        if not pod.foreign and is_ready(pod):
            yield Assign(pod.uid, Assignment(job_uid=job.uid, incarnation=job.status.incarnation, stop=reason))


def replacements(world: World) -> Iterator[CreatePod | DeletePod]:
    """Delete what is dead and charged, create what is missing. A name is free only when its old pod is gone."""
    job = world.job
    for pod in world.pods:
        if pod.foreign or pod.deleting and not _stuck(pod):
            continue
        if pod.uid in job.status.replacing or is_stale(pod, world):
            yield DeletePod(pod.name, pod.uid, force=_stuck(pod) or pod.exit is not None)
    taken = {p.index for p in world.pods}
    for index in range(job.spec.workers):
        if index not in taken:
            yield CreatePod(index, job.status.incarnation)


def _stuck(pod: Pod) -> bool:
    """Nobody will confirm its end: its node is gone."""
    return pod.lost is not None or (pod.exit is None and pod.agent is not None and not pod.agent.connected)
