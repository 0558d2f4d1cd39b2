"""Fold what the agents say into the status. Words of an older incarnation do not count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from disttrain_contract.messages import MAX_METRICS, Checkpoint, Progress, RemoteCopy, Report, Restore
from disttrain_operator.core import budget, group
from disttrain_operator.core.model import Recovery, Status, WorkerCounts, World


def fold(world: World, now: datetime) -> Status:
    """The job's status with counts, progress, checkpoint and recovery brought up to what is seen now."""
    status = world.job.status
    current = tuple(_reports(world))
    status = replace(
        status,
        observed_generation=world.job.generation,
        workers=counts(world),
        progress=_progress(status.progress, current),
        checkpoint=_checkpoint(status.checkpoint, tuple(_all_reports(world))),
    )
    charges = budget.refill(world.job.spec, status)
    return replace(status, last_recovery=_recovered(status, current, now), charges=charges)


def counts(world: World) -> WorkerCounts:
    """How many workers are how. Standbys are counted apart."""
    job, pods = world.job, group.members(world).values()
    n = job.status.incarnation
    return WorkerCounts(
        desired=0 if job.spec.suspend else job.spec.workers,
        ready=sum(group.is_ready(p) and not group.is_finished(p, n) for p in pods),
        active=sum(group.is_active(p, n) for p in pods),
        succeeded=sum(group.is_finished(p, n) for p in pods),
        failed=sum(p.dead for p in pods),
        standby=max(0, len(group.standbys(world)) - group.absent(job)) if job.spec.standby else None,
    )


def restored(world: World) -> Restore | None:
    """What the present incarnation started from."""
    return next((r.restore for r in _reports(world) if r.restore is not None), None)


def remote_copy(world: World) -> RemoteCopy | None:
    """What is known of the second tier: the present incarnation's word, rank 0's pod first."""
    return next((r.remote_copy for r in _reports(world) if r.remote_copy is not None), None)


def latest(world: World) -> Progress | None:
    """What the present incarnation said last about its training, as it was said."""
    return next((r.progress for r in _reports(world) if r.progress is not None), None)


def _reports(world: World) -> Iterator[Report]:
    """Of the group of the present incarnation, rank 0's pod first."""
    place = {index: at for at, index in enumerate(group.seats(world.job))}
    for pod in sorted(group.seated(world), key=lambda p: place[p.index]):
        if (report := pod.report) is not None and report.incarnation == world.job.status.incarnation:
            yield report


def _all_reports(world: World) -> Iterator[Report]:
    for pod in world.pods:
        if not pod.foreign and (report := pod.report) is not None:
            yield report


def _progress(old: Progress | None, reports: tuple[Report, ...]) -> Progress | None:
    """Rank 0's word; it keeps what it does not know (the last evaluation survives a restart)."""
    new = next((r.progress for r in reports if r.progress is not None), None)
    if new is None:
        return old
    if old is None:
        return new
    metrics = {**old.metrics, **new.metrics}
    few = dict(list(metrics.items())[:MAX_METRICS]) if len(metrics) > len(new.metrics) else new.metrics
    return replace(new, metrics=few, best=new.best or old.best)


def _checkpoint(old: Checkpoint | None, reports: tuple[Report, ...]) -> Checkpoint | None:
    """The newest commit. A commit was fenced when it was made, so it counts whatever incarnation made it."""
    known = [r.checkpoint for r in reports if r.checkpoint is not None] + ([old] if old is not None else [])
    return max(known, key=lambda c: (c.incarnation, c.step), default=None)


def _recovered(status: Status, reports: tuple[Report, ...], now: datetime) -> Recovery | None:
    last = status.last_recovery
    if last is None or last.incarnation >= status.incarnation:
        return last
    start = next((r.restore for r in reports if r.restore is not None), None)
    if last.restored_step is None and start is not None:
        last = replace(
            last, restored_step=start.step, source=start.source, lost_steps=max(0, (last.step or 0) - start.step)
        )
    step = next((r.progress.step for r in reports if r.progress is not None), None)
    if last.recover_seconds is None and step is not None and step > (last.step or 0):
        last = replace(last, recover_seconds=round(max(0.0, (now - last.failed_at).total_seconds()), 3))
    return last
