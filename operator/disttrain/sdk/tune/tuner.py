"""The tuner: trials as they should be, jobs as they are, one pass after the other.

Every pass looks at everything, so it does not matter when the last tuner died: a trial without its job gets it, a job
whose trial has been given up goes away, and what ended meanwhile is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from disttrain.sdk import errors
from disttrain.sdk.client import Client
from disttrain.sdk.job import Job
from disttrain.sdk.tune.search import STUDY, STUDY_ID, TRIAL, Search
from disttrain.sdk.tune.trials import Standing, Trials

POLL_SECONDS = 2.0
"""Progress in a job's status is written every five seconds at most."""


class Tuner:
    """One life of it."""

    def __init__(
        self, client: Client, search: Search, trials: Trials, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._client, self._search, self._trials, self._sleep = client, search, trials, sleep

    def run(self, poll: float = POLL_SECONDS) -> Iterator[str]:
        """To the end of the search; gives a sentence for everything that happens."""
        while True:
            try:
                yield from self.look()
            except errors.Unreachable as error:
                yield f"{error}; trying again"
            else:
                if self.done:
                    return
            self._sleep(poll)

    @property
    def done(self) -> bool:
        """All trials have ended."""
        standings = self._trials.all()
        return len(standings) >= self._search.trials and not any(t.running for t in standings)

    def look(self) -> Iterator[str]:
        """One pass."""
        jobs = self._jobs()
        for trial in self._trials.all():
            job = jobs.get(trial.number)
            if trial.running:
                yield from self._tend(trial, job)
            elif trial.state == "pruned" and job is not None and not job.deleting:
                self._client.delete(job.name)
        standings = self._trials.all()
        free = self._search.parallel - sum(t.running for t in standings)
        for _ in range(min(free, self._search.trials - len(standings))):
            yield self._start(self._trials.ask())

    def _tend(self, trial: Standing, job: Job | None) -> Iterator[str]:
        name = self._search.job_name(trial.number)
        if job is None and not trial.submitted:
            yield self._start(trial)
        elif job is None or job.deleting:
            yield self._failed(trial, f"job {name} was deleted")
        elif job.succeeded:
            yield self._ended(trial, job)
        elif job.failed:
            condition = job.condition("Failed")
            yield self._failed(trial, condition.message if condition is not None else "the job failed")
        else:
            yield from self._watched(trial, job)

    def _start(self, trial: Standing) -> str:
        """Also for a trial whose tuner died before its job was there."""
        name = self._search.job_name(trial.number)
        self._require_ours(name)
        self._client.submit(self._search.manifest(trial.number, trial.parameters, self._trials.id))
        self._trials.submitted(trial.number)
        return f"trial {trial.number}: {_parameters(trial)}, job {name}"

    def _watched(self, trial: Standing, job: Job) -> Iterator[str]:
        at = job.status.progress
        value = (at.metrics or {}).get(self._search.metric) if at is not None else None
        if at is None or value is None or not self._trials.saw(trial.number, at.step, value):
            return
        self._trials.prune(trial.number)
        self._client.delete(job.name)  # should this be lost, the next pass does it
        yield f"trial {trial.number}: given up at step {at.step}, {self._search.metric} {value:.6g}"

    def _ended(self, trial: Standing, job: Job) -> str:
        value = final(job, self._search.metric)
        if value is None:
            return self._failed(trial, f"job {job.name} has no metric {self._search.metric} in its status")
        self._trials.complete(trial.number, value)
        best = self._trials.best()
        note = ", the best so far" if best is not None and best.number == trial.number else ""
        return f"trial {trial.number}: {self._search.metric} {value:.6g}{note}"

    def _failed(self, trial: Standing, reason: str) -> str:
        self._trials.fail(trial.number, reason)
        return f"trial {trial.number}: failed: {reason}"

    def _jobs(self) -> Mapping[int, Job]:
        """Of this search, by trial."""
        found: dict[int, Job] = {}
        for job in self._client.list():
            labels = job.raw["metadata"].get("labels") or {}
            number = str(labels.get(TRIAL, ""))
            if labels.get(STUDY) == self._search.name and number.isdigit() and self._is_ours(job):
                found[int(number)] = job
        return found

    def _is_ours(self, job: Job) -> bool:
        return (job.raw["metadata"].get("annotations") or {}).get(STUDY_ID) == self._trials.id

    def _require_ours(self, name: str) -> None:
        """Submitting changes a job that is there already; that must be none of somebody else's."""
        try:
            job = self._client.get(name)
        except errors.NotFound:
            return
        if not self._is_ours(job):
            raise errors.BadInput(
                f"job {name} is there already and belongs to no trial of this search",
                hint="delete it, give the search another name, or name the study file it belongs to with --study",
            )


def final(job: Job, metric: str) -> float | None:
    """What a job has reached: its best evaluation if its own measure is the same one (that checkpoint is kept), else its last."""
    at = job.status.progress
    if at is None:
        return None
    if at.best is not None and at.best.metric == metric:
        return at.best.value
    return (at.metrics or {}).get(metric)


def _parameters(trial: Standing) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in trial.parameters.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
