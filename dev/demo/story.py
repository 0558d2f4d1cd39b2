"""Follow a job with a live view and kill one of its workers in the middle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from disttrain.sdk import Client, Happened, Job, JobGone, JobSeen

KILL_AT = 0.4
"""Share of the training after which the worker dies: late enough to have checkpoints, early enough to see it go on."""
PATIENCE_SECONDS = 600.0
UNBOUND = "unbound immediate PersistentVolumeClaims"
"""The scheduler says so for the second in which the job's claim is being made."""
NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
"""The images were loaded a moment ago: what is not there now will not come by waiting."""
PLAIN_EVERY_SECONDS = 5.0
"""Without a terminal: a line at most this often."""


@dataclass
class Outcome:
    """What was seen."""

    job: Job | None = None
    killed: str | None = None
    killed_at_step: int = 0
    resumed_seconds: float | None = None
    hopeless: str | None = None
    """Why nobody waited for the end."""
    seconds: float = 0.0


class Story:
    """One run of the demo's job."""

    def __init__(self, client: Client, name: str, kill: Callable[[str], None]) -> None:
        self._client, self._name, self._kill = client, name, kill
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), console=self._console
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None, note="")
        self._outcome = Outcome()
        self._killed_at = 0.0
        self._said = 0.0

    def run(self) -> Outcome:
        """Until the job has finished or never will. Raises SystemExit when it takes far too long."""
        started = time.monotonic()
        with (
            Live(self._bar, console=self._console, refresh_per_second=4) if self._console.is_terminal else self._console
        ):
            for update in self._client.watch(self._name):
                if isinstance(update, Happened) and UNBOUND not in update.event.message:
                    mark = "!" if update.event.warning else "·"
                    self._console.print(f"  {mark} {update.event.reason}: {update.event.message}", markup=False)
                if isinstance(update, JobSeen):
                    self._see(update.job)
                if isinstance(update, JobGone):
                    self._outcome.job = None
                if isinstance(update, JobGone) or self._is_over():
                    break
                if time.monotonic() - started > PATIENCE_SECONDS:
                    raise SystemExit(
                        f"the job has not finished within {PATIENCE_SECONDS:.0f} s: see `kubectl describe dtj {self._name}`"
                    )
        self._outcome.seconds = time.monotonic() - started
        return self._outcome

    def _see(self, job: Job) -> None:
        self._outcome.job, self._outcome.hopeless = job, _hopeless(job)
        progress = job.status.progress
        step, total = (progress.step, progress.total_steps) if progress is not None else (0, None)
        self._show(job, step, total)
        if self._outcome.killed is None and total and self._may_kill(job, step, total):
            self._strike(job, step)
        elif self._killed_at and self._outcome.resumed_seconds is None and _has_recovered(job):
            self._outcome.resumed_seconds = time.monotonic() - self._killed_at

    def _is_over(self) -> bool:
        return self._outcome.hopeless is not None or (self._outcome.job is not None and self._outcome.job.finished)

    def _may_kill(self, job: Job, step: int, total: int) -> bool:
        saved = job.status.checkpoint is not None and job.status.checkpoint.last_committed is not None
        return saved and step >= KILL_AT * total and job.state == "Running"

    def _strike(self, job: Job, step: int) -> None:
        victim = f"{job.name}-{job.workers - 1}"
        self._console.print(
            f"\n  ✂ step {step}: killing worker pod {victim} (kubectl delete pod --grace-period=0 --force)\n",
            markup=False,
        )
        self._outcome.killed, self._outcome.killed_at_step, self._killed_at = victim, step, time.monotonic()
        self._kill(victim)

    def _show(self, job: Job, step: int, total: int | None) -> None:
        status = job.status
        ready = status.workers.summary if status.workers is not None else "0"
        loss = f"loss {status.progress.loss:.4f}" if status.progress and status.progress.loss is not None else ""
        text = f"{job.state}, workers {ready}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, total=total, description=text, note=loss)
        elif time.monotonic() - self._said >= PLAIN_EVERY_SECONDS:
            self._said = time.monotonic()
            self._console.print(f"  {text}, step {step}/{total or '?'} {loss}", markup=False)


def _has_recovered(job: Job) -> bool:
    """The operator has seen a step that nobody had made before."""
    last = job.status.recovery.last if job.status.recovery is not None else None
    return last is not None and last.recover_seconds is not None


def _hopeless(job: Job) -> str | None:
    ready = job.condition("WorkersReady")
    if ready is None or ready.reason not in NO_IMAGE:
        return None
    return f"{ready.message}; `make image-load` builds and loads the images"
