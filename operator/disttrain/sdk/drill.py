"""A fire drill: break something, watch the job recover, say how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from disttrain.sdk import errors
from disttrain.sdk.course import OF_A_RECOVERY, Course, Moment, Order, Result, obstacle, readiness
from disttrain.sdk.faults import Faults, Made
from disttrain.sdk.updates import JobGone, JobSeen, Update
from disttrain_contract.drill import Fault

if TYPE_CHECKING:
    from disttrain.sdk.client import Client
    from disttrain.sdk.job import Job

TICK = 0.25
"""Between looks while nothing is told: how exact a time-out and the Lease's change are seen."""


class Drill:
    """One order, carried out on one job. `say` hears what is waited for."""

    def __init__(self, client: Client, faults: Faults, order: Order, say: Callable[[str], None]) -> None:
        self._client = client
        self._faults = faults
        self._order = order
        self._say = say
        self._job: Job | None = None
        """As it was last seen."""

    def run(self, name: str) -> Iterator[Result]:
        """A result for each repetition; ends early with the first that the job did not recover from."""
        beyond = -1
        with closing(self._client.watch(name, tick=TICK)) as updates:
            for _ in range(self._order.repeat):
                self._wait_until_ready(updates, beyond)
                result, beyond = self._once(updates, name)
                yield result
                if not result.recovered:
                    return

    def _wait_until_ready(self, updates: Generator[Update], beyond: int) -> None:
        order, told = self._order, False
        for update in updates:
            job = self._seen(update)
            if problem := obstacle(order, job):
                raise errors.BadInput(problem)
            if readiness(order, job, beyond):
                return
            if not told:
                self._say(f"waiting until the job runs and has finished step {max(order.at_step, beyond + 1)}")
                told = True

    def _once(self, updates: Generator[Update], name: str) -> tuple[Result, int]:
        order, client = self._order, self._client
        job = client.get(name)
        claim = client.claim(job) if order.fault is Fault.FILL_DISK else None
        try:
            made = self._faults.make(order, job, client.workers(job), claim)
        except BaseException:
            self._faults.withdraw()
            raise
        try:
            self._say(f"{order.fault}: {made.where} at step {Moment(job, 0.0).step}")
            if order.fault in OF_A_RECOVERY and not made.announced:
                self._say("status will not say that it was a drill: that needs patch on disttrainjobs")
            course = Course(order.fault, Moment(job, made.at, made.leader))
            return self._watch(updates, course, made)
        finally:
            made.undo()
            self._faults.withdraw()

    def _watch(self, updates: Generator[Update], course: Course, made: Made) -> tuple[Result, int]:
        last = course.before
        for update in updates:
            last = Moment(self._seen(update), time.monotonic(), self._leader(course))
            course = course.after(last)
            if course.mended is not None or last.job.finished or last.at - made.at > self._order.timeout:
                break
        return course.result(made.where, last), last.step

    def _leader(self, course: Course) -> str | None:
        """Looked up as long as it matters."""
        if course.fault is not Fault.KILL_OPERATOR or course.detected is not None:
            return None
        try:
            return self._faults.leader(self._order.operator_namespace)
        except errors.Unreachable:
            return None

    def _seen(self, update: Update) -> Job:
        if isinstance(update, JobGone):
            raise errors.NotFound(f"job {update.job.name!r} was deleted meanwhile", status=404)
        if isinstance(update, JobSeen):
            self._job = update.job
        assert self._job is not None, "a watch begins with the job"
        return self._job
