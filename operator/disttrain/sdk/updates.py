"""What a follower is told: the job changed, something happened, time passed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from disttrain.sdk import errors, paths
from disttrain.sdk.job import Happening, Job
from disttrain.sdk.merging import Merge
from disttrain.sdk.transport import Transport
from disttrain.sdk.watching import Change, Sight, Watch


@dataclass(frozen=True, slots=True)
class JobSeen:
    """The job as it is now."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobGone:
    """Somebody deleted it."""

    job: Job


@dataclass(frozen=True, slots=True)
class Happened:
    """An event about the job, or a warning about one of its pods."""

    event: Happening


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing has come for a while."""


Update = JobSeen | JobGone | Happened | Tick


class IfAllowed:
    """A watch that somebody without the right to it simply does not get."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __iter__(self) -> Iterator[Sight]:
        try:
            yield from self._watch
        except errors.Refused:
            return

    def close(self) -> None:
        """End it."""
        self._watch.close()


def follow(transport: Transport, job: Job, tick: float) -> Iterator[Update]:
    """From now until the job is deleted; the caller stops earlier when it has seen enough."""
    yield JobSeen(job)
    merge: Merge[Update | None] = Merge()
    one = {"fieldSelector": f"metadata.name={job.name}"}
    merge.add(Watch(transport, paths.jobs(job.namespace), one, known=[dict(job.raw)]), _job_update)
    events = paths.core(job.namespace, "events")
    merge.add(IfAllowed(Watch(transport, events, paths.about(job.uid))), lambda sight: _event_update(sight, job))
    merge.add(IfAllowed(Watch(transport, events, paths.POD_WARNINGS)), lambda sight: _event_update(sight, job))
    stream = merge.read(tick)
    try:
        for update in stream:
            yield update or Tick()
            if isinstance(update, JobGone):
                return
    finally:
        merge.close()


def _job_update(sight: Sight) -> Update:
    job = Job(sight.raw)
    return JobGone(job) if sight.change is Change.GONE else JobSeen(job)


def _event_update(sight: Sight, job: Job) -> Update | None:
    event = Happening(sight.raw)
    if sight.change is Change.GONE or not concerns(event, job):  # events are deleted after an hour
        return None
    return Happened(event)


def concerns(event: Happening, job: Job) -> bool:
    """About the job or a pod of it, in this life of its name."""
    kind, _, name = event.about.partition("/")
    if kind == "Pod":
        recent = event.time is None or job.created is None or event.time >= job.created
        return recent and re.fullmatch(rf"{re.escape(job.name)}-\d+", name) is not None
    return (event.raw.get("involvedObject") or {}).get("uid") in (job.uid, None)
