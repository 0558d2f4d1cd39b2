"""How a drill goes: what is seen after its fault, and when it is over. Pure: the job as it changes and the clock are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from disttrain.sdk.job import Job, Worker
from disttrain_contract.drill import Fault

OF_A_RANK = frozenset({Fault.KILL_RANK, Fault.STOP_RANK})
"""Faults that hit a process."""
OF_A_POD = frozenset({Fault.KILL_POD, Fault.EVICT, Fault.FILL_DISK})
"""Faults that hit a worker or are made from inside one."""

OF_A_RECOVERY = frozenset({Fault.KILL_RANK, Fault.STOP_RANK, Fault.KILL_POD, Fault.EVICT})
"""Faults that cost a recovery, of which the status tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to break, and how often."""

    fault: Fault
    rank: int | None = None
    worker: int | None = None
    at_step: int = 0
    repeat: int = 1
    timeout: float = 300.0
    """Seconds from each fault to its recovery."""
    seconds: float = 10.0
    """How long a disk stays full."""
    operator_namespace: str = "disttrain-system"


@dataclass(frozen=True, slots=True)
class Moment:
    """The job as it was seen, and when, by a clock that only goes forward."""

    job: Job
    at: float
    leader: str | None = None
    """Who holds the operator's Lease; None: not looked."""

    @property
    def step(self) -> int:
        """Finished steps."""
        seen = self.job.status.progress
        return seen.step if seen is not None else 0

    @property
    def recoveries(self) -> int:
        """Failures so far."""
        seen = self.job.status.recovery
        return seen.count if seen is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One drill. Seconds are None for what was not seen."""

    fault: Fault
    where: str
    step: int
    """The last one that was known when the fault was made."""
    recovered: bool
    failure_class: str | None = None
    """What the operator said it was."""
    cause: str = ""
    detect_seconds: float | None = None
    """From the fault until the API said so, by the clock of this machine."""
    recover_seconds: float | None = None
    """From there to the first new step: by the operator's clock for a recovery, else by the clock of this machine."""
    source: str | None = None
    """Where the state came from."""
    lost_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """A drill under way."""

    fault: Fault
    before: Moment
    """The fault was made then."""
    detected: Moment | None = None
    mended: Moment | None = None

    def after(self, now: Moment) -> Course:
        """With what is seen now."""
        course = self
        if course.detected is None and _is_detected(self.fault, self.before, now):
            course = replace(course, detected=now)
        if course.detected is not None and course.mended is None and _is_mended(self.fault, course.detected, now):
            course = replace(course, mended=now)
        return course

    def result(self, where: str, last: Moment) -> Result:
        """What to tell. `last`: the newest that was seen."""
        told = Result(fault=self.fault, where=where, step=self.before.step, recovered=self.mended is not None)
        if self.detected is None:
            return replace(told, cause=_unnoticed(last.job))
        told = replace(told, detect_seconds=max(0.0, self.detected.at - self.before.at))
        if self.fault is Fault.FILL_DISK or self.fault is Fault.KILL_OPERATOR:
            seconds = self.mended.at - self.detected.at if self.mended is not None else None
            return replace(_described(told, self.detected), recover_seconds=seconds)
        return _recovery(told, last.job)


def readiness(order: Order, job: Job, beyond: int) -> bool:
    """Whether the fault can be made now: the job trains, has reached the step, and has made new ones since the last drill."""
    now = Moment(job, 0.0)
    return job.holds("Running") and not job.holds("Restarting") and now.step >= order.at_step and now.step > beyond


def obstacle(order: Order, job: Job) -> str:
    """Why this drill would say nothing about this job; empty: go on."""
    total = job.status.progress.total_steps if job.status.progress is not None else None
    if job.finished or job.deleting:
        return f"job {job.name} is {job.state.lower()}: nothing runs that could be hit"
    if job.suspended:
        return f"job {job.name} is suspended: resume it first"
    if total is not None and order.at_step >= total:
        return f"job {job.name} has only {total} steps: --at-step {order.at_step} is never followed by a new one"
    if order.fault is Fault.FILL_DISK:
        return _disk_obstacle(job)
    return ""


def candidates(order: Order, job: Job, workers: Sequence[Worker]) -> list[Worker]:
    """The pods to look in, the likeliest first: by the seats, which may have changed since."""
    live = [w for w in workers if w.started and not w.ended and "deletionTimestamp" not in w.raw["metadata"]]
    if order.worker is not None:
        return [w for w in live if w.index == order.worker]
    seats = job.seats
    place = order.rank // job.processes if order.rank is not None else -1
    likely = seats[place] if place < len(seats) else -1
    # Who has no seat in the group is a standby: looked at last.
    return sorted(live, key=lambda w: (w.index != likely, w.index not in seats, -w.index))


def _is_detected(fault: Fault, before: Moment, now: Moment) -> bool:
    match fault:
        case Fault.FILL_DISK:
            condition = now.job.condition("Checkpointed")
            return condition is not None and condition.status == "False"
        case Fault.KILL_OPERATOR:
            return bool(now.leader) and now.leader != before.leader
        case _:
            return now.recoveries > before.recoveries


def _is_mended(fault: Fault, detected: Moment, now: Moment) -> bool:
    if now.job.succeeded:  # it cannot make more new steps than that
        return True
    match fault:
        case Fault.FILL_DISK:
            return now.job.holds("Checkpointed") and now.step > detected.step
        case Fault.KILL_OPERATOR:
            return now.step > detected.step
        case _:
            last = now.job.status.recovery.last if now.job.status.recovery is not None else None
            return last is not None and last.recover_seconds is not None


def _described(told: Result, detected: Moment) -> Result:
    """A fault that costs no recovery, as it was noticed."""
    if told.fault is Fault.KILL_OPERATOR:
        return replace(told, cause=f"{detected.leader} leads now")
    condition = detected.job.condition("Checkpointed")
    assert condition is not None, "it was detected by this"
    return replace(told, failure_class=condition.reason, cause=condition.message)


def _recovery(told: Result, job: Job) -> Result:
    last = job.status.recovery.last if job.status.recovery is not None else None
    if last is None:
        return told
    failed = job.condition("Failed") if job.failed else None
    return replace(
        told,
        failure_class=last.failure_class,
        cause=failed.message if failed is not None else last.cause or "",
        recover_seconds=last.recover_seconds,
        source=last.source,
        lost_steps=last.lost_steps,
    )


def _unnoticed(job: Job) -> str:
    if job.failed and (failed := job.condition("Failed")) is not None:
        return failed.message
    return "the job ended before anybody noticed" if job.finished else "nobody noticed"


def _disk_obstacle(job: Job) -> str:
    condition = job.condition("Checkpointed")
    if not (job.spec.get("checkpoint") or {}).get("volume"):
        return f"job {job.name} keeps no checkpoints: there is no disk to fill"
    if condition is not None and condition.status == "False":
        return f"job {job.name} cannot write checkpoints already ({condition.reason}): mend that first"
    return ""
