"""Who holds a seat of the next incarnation after pods were lost. Pure arithmetic on seats: group position → worker index."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from disttrain_contract.names import pod_name
from disttrain_operator.core import failure, group
from disttrain_operator.core.model import Pod, World


def after_loss(world: World, doomed: tuple[str, ...]) -> tuple[int, ...]:
    """Each seat whose pod is lost goes to the lowest ready standby. A seat for which there is none is given up when the job is
    elastic and enough members are left; else it stays with its worker index, whose pod is made again. What is ready beyond
    that fills a group that has been smaller, since it starts again anyway."""
    job, old = world.job, group.seats(world.job)
    least = job.spec.min_workers
    usable = {
        p.index: p
        for p in group.members(world).values()
        if p.uid not in doomed and (least is None or group.is_ready(p) or patience(p) > 0)
    }
    spare = deque(spares(world, usable.values()))
    seats = [i if i in usable or not spare else spare.popleft() for i in old]
    filled = [i for i in seats if i in usable or i not in old]
    if least is not None and len(filled) >= least:
        seats = filled
    return (*seats, *spare)[: job.spec.workers]


def spares(world: World, others: Iterable[Pod]) -> list[int]:
    """Worker indices of standbys that can sit beside these, the lowest first. One with another number of processes cannot."""
    counts = {p.report.processes for p in others if p.report is not None}
    return [
        p.index
        for p in group.standbys(world)
        if not counts or (p.report is not None and p.report.processes in counts)
    ]  # fmt: skip


def patience(pod: Pod) -> float:
    """Seconds for which a member that is not ready is still counted upon: a stream that was cut a moment ago comes back."""
    if pod.exit is not None or pod.deleting or pod.agent is None:
        return 0.0
    return failure.LOST_SECONDS - pod.agent.silent_seconds


def replacing(world: World, seats: tuple[int, ...], doomed: tuple[str, ...] = ()) -> tuple[str, ...]:
    """UIDs of the pods to be made again: those of before, the lost ones, and members that lose their seat and cannot be told."""
    left = (p for p in group.seated(world) if p.index not in seats)
    unreachable = (p.uid for p in left if p.exit is not None or group.is_stuck(p))
    return tuple(dict.fromkeys((*world.job.status.replacing, *doomed, *unreachable)))


def moves(world: World, seats: tuple[int, ...]) -> str:
    """What becomes different, for people."""
    job, old = world.job, group.seats(world.job)
    gone, come = [i for i in old if i not in seats], [i for i in seats if i not in old]
    name = job.name
    pairs = zip(come, gone, strict=False)
    taken = "".join(f"; standby {pod_name(name, new)} takes the place of {pod_name(name, lost)}" for new, lost in pairs)
    size = f"; the group goes on with {len(seats)} of {job.spec.workers} workers" if len(seats) != len(old) else ""
    return taken + size
