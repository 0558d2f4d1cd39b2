"""A job as it runs: a live view on a terminal, plain lines elsewhere. `make demo` uses it too.

with FollowView(console) as view:
    for update in client.watch("mnist"):
        view.show(update)
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from disttrain.cli import advice, session, words
from disttrain.cli.narrator import Narrator, Said
from disttrain.cli.palette import TONES, state_style
from disttrain.sdk.job import Job, parse_time
from disttrain.sdk.updates import JobSeen, Tick, Update

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console, RenderableType
    from rich.live import Live

PLAIN_EVERY_SECONDS = 10.0
"""Between two progress lines when the output is not a terminal."""
REFRESH_PER_SECOND = 4
UNSEEN_SECONDS = 20.0
"""A job without any status for this long has no operator."""


class FollowView:
    """Shows updates; `say` adds a line of the caller's own."""

    def __init__(self, console: Console, *, plain_every: float = PLAIN_EVERY_SECONDS) -> None:
        self._console = console
        self._live: Live | None = None
        self._plain_every = plain_every
        self._narrator = Narrator()
        self._began = time.monotonic()
        self._told_progress = float("-inf")
        self._told_step: int | None = None
        self._told_unseen = False
        self.job: Job | None = None
        """The job as last seen."""

    def __enter__(self) -> FollowView:
        if self._console.is_terminal:
            from rich.live import Live

            # Cleared at the end: the summary says it for good.
            self._live = Live(
                console=self._console, get_renderable=self._panel, refresh_per_second=REFRESH_PER_SECOND, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, problem, trace)
            self._live = None

    def show(self, update: Update) -> None:
        """One more update."""
        if isinstance(update, JobSeen):
            self.job = update.job
        for line in self._narrator.lines(update):
            self._print(line)
        if isinstance(update, Tick):
            self._warn_if_unseen()
        if self._live is None:
            self._plain_progress()

    def say(self, text: str, tone: str = "") -> None:
        """A line between the others."""
        self._print(Said(None, "", text, tone))

    def _print(self, line: Said) -> None:
        from rich.text import Text

        style = TONES.get(line.tone, "")
        reason = f"{line.reason:<18} " if line.reason else ""
        text = Text.assemble((words.clock(line.time), "dim"), "  ", (reason, f"bold {style}"), (line.message, style))
        self._console.print(text, soft_wrap=True)

    def _warn_if_unseen(self) -> None:
        unseen = self.job is not None and not self.job.raw.get("status")
        if unseen and not self._told_unseen and time.monotonic() - self._began > UNSEEN_SECONDS:
            self._told_unseen = True
            self.say(f"nobody has looked at this job yet: is the operator installed and well? {advice.OPERATOR}", "bad")

    def _plain_progress(self) -> None:
        at = self.job.status.progress if self.job is not None else None
        due = time.monotonic() - self._told_progress >= self._plain_every
        if self.job is None or at is None or at.step == self._told_step or not (due or self.job.finished):
            return
        self._told_progress, self._told_step = time.monotonic(), at.step
        parts = (
            f"step {words.steps(self.job)}",
            words.pace(self.job),
            f"workers {words.workers(self.job)}",
            f"checkpoint {words.checkpoint(self.job)}",
        )
        self.say("  ".join(part for part in parts if part))

    def _panel(self) -> RenderableType:
        return panel(self.job, session.now()) if self.job is not None else ""


def panel(job: Job, now: datetime) -> RenderableType:
    """The lines that stay at the bottom of a terminal."""
    from rich.console import Group
    from rich.text import Text

    began = parse_time(job.status.start_time) or job.created
    head = Text.assemble(
        (job.name, "bold"), "  ", (job.state, state_style(job.state)), "  ", (words.age(began, now), "dim")
    )
    foot = Text.assemble(
        ("workers ", "dim"), words.workers(job), ("   checkpoint ", "dim"), words.checkpoint(job),
        ("   recoveries ", "dim"), words.recoveries(job),
    )  # fmt: skip
    return Group(head, *_bar(job), foot)


def _bar(job: Job) -> list[RenderableType]:
    """Nothing for a program that reports no progress."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    at = job.status.progress
    if at is None:
        return []
    line = Table.grid(padding=(0, 1))
    done = ProgressBar(total=at.total_steps, completed=at.step, width=40, pulse=not at.total_steps)
    line.add_row(done, Text(f"step {words.steps(job)}", style="bold"), Text(words.pace(job)))
    return [line]


def summary(job: Job | None, console: Console, prog: str = "disttrain") -> None:
    """The last words about a job: how it ended, where things are, what to type next."""
    from rich.text import Text

    if job is None:
        return
    ended = job.condition("Failed" if job.failed else "Succeeded")
    style = TONES["bad" if job.failed else "good"] if job.finished else ""
    said = f": {ended.message}" if ended is not None else ""
    console.print(Text.assemble((f"{job.name} {job.state}", f"bold {style}"), said), soft_wrap=True)
    if pace := words.pace(job):
        console.print(Text(f"  step {words.steps(job)}  {pace}"))
    last = job.status.recovery.last if job.status.recovery is not None else None
    if job.failed and last is not None and last.traceback:
        console.print(Text("\n".join(f"  │ {line}" for line in last.traceback.rstrip().splitlines()), style="dim"))
    for sentence in advice.for_job(job, prog):
        console.print(Text(f"  → {sentence}"), soft_wrap=True)
