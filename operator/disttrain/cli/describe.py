"""`disttrain describe`: everything about one job, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from disttrain.cli import options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from disttrain.sdk import Client, Happening, Job, Worker

EVENTS_SHOWN = 15
MAX_PROGRAM = 160
"""A whole script in `python -c` is cut here."""


def describe(
    name: options.Name,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Show all about one job, and what to do next.

    Progress, checkpoint, the last failure with its traceback, conditions, workers, events.
    """
    client = session.client(kubeconfig, context, namespace)
    job = client.get(name)
    console, now = session.out(), session.now()
    _heading(console, job, now)
    _facts(console, job, now, _if_allowed(lambda: client.claim(job)))
    _recovery(console, job, now)
    _conditions(console, job, now)
    _workers(console, job, _if_allowed(lambda: client.workers(job)), now)
    _events(console, _events_of(client, job), now)
    _next(console, job)
    return Exit.SUCCEEDED


def _if_allowed(look: Any) -> Any:
    """What the caller may not see is left out; the job itself was allowed."""
    from disttrain.sdk.errors import NotAllowed

    try:
        return look()
    except NotAllowed:
        return None


def _events_of(client: Client, job: Job) -> Sequence[Happening] | None:
    found: Sequence[Happening] | None = _if_allowed(lambda: client.events(job))
    return found


def _title(console: Console, text: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(text, style="bold"))


def _grid(*columns: str) -> Table:
    from rich.table import Table

    found = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim", show_header=bool(columns))
    for column in columns:
        found.add_column(column, overflow="fold")
    return found


def _heading(console: Console, job: Job, now: datetime) -> None:
    from rich.text import Text

    from disttrain.cli import words
    from disttrain.cli.palette import state_style

    console.print(Text.assemble((job.name, "bold"), "  ", (job.state, f"bold {state_style(job.state)}")))
    since = f"submitted {words.age(job.created, now)} ago"
    console.print(Text(f"namespace {job.namespace}, {since}, incarnation {job.status.incarnation or 0}", style="dim"))


def _facts(console: Console, job: Job, now: datetime, claim: Mapping[str, Any] | None) -> None:
    from disttrain.cli import words
    from disttrain.sdk.visible import visible

    counts = job.status.workers
    active = f" connected, {counts.active} training" if counts is not None else ""
    standby = f"; {counts.standby or 0} of {job.standby} standbys ready" if counts is not None and job.standby else ""
    rows = {
        "image": visible(str(job.spec.get("image", ""))),
        "runs": what_runs(job.spec),
        "workers": f"{words.workers(job)}{active}; {words.plural(job.processes, 'process', 'processes')} each{standby}",
        "progress": f"step {words.steps(job)}  {words.pace(job)}" if job.status.progress is not None else words.NONE,
        "checkpoint": _checkpoint(job, now),
        "volume": _volume(job, claim),
        "recoveries": words.recoveries(job) + _budget(job),
    }
    grid = _grid()
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            grid.add_row(name, text)
    console.print(grid)


def what_runs(spec: Mapping[str, Any]) -> str:
    """The entry point or the command with its arguments."""
    import shlex

    from disttrain.sdk.visible import visible

    program = [spec["entrypoint"]] if spec.get("entrypoint") else list(spec.get("command") or ())
    line = " ".join(shlex.join(str(word) for word in (*program, *(spec.get("args") or ()))).split())
    line = visible(line)
    return line if len(line) <= MAX_PROGRAM else line[: MAX_PROGRAM - 1] + "…"


def _checkpoint(job: Job, now: datetime) -> str:
    from disttrain.cli import words
    from disttrain.sdk.job import parse_time

    kept = job.status.checkpoint
    last = kept.last_committed if kept is not None else None
    if last is None:
        return words.NONE if job.spec.get("checkpoint") else "none: a failure starts training again from step 0"
    made = parse_time(last.time)
    when = f", {words.age(made, now)} ago" if made is not None else ""
    return f"step {last.step}{when}, {last.path or ''} {last.digest[:19]}"


def _volume(job: Job, claim: Mapping[str, Any] | None) -> str:
    from disttrain.sdk.client import claim_name

    name = claim_name(job)
    if not name:
        return ""
    if claim is None:
        return f"claim {name} (not seen)"
    status = claim.get("status") or {}
    size = (status.get("capacity") or {}).get("storage", "")
    kept = "" if (job.spec["checkpoint"]["volume"]).get("claimName") else "; stays when the job is deleted"
    return f"claim {name}, {size} {status.get('phase', '')}{kept}".replace("  ", " ")


def _budget(job: Job) -> str:
    allowed = ((job.spec.get("recovery") or {}).get("budget") or {}).get("failures", 5)
    return f"; {job.status.attempts or 0} of {allowed} failures charged"


def _recovery(console: Console, job: Job, now: datetime) -> None:
    from rich.text import Text

    from disttrain.cli import words
    from disttrain.sdk.job import parse_time

    last = job.status.recovery.last if job.status.recovery is not None else None
    if last is None:
        return
    _title(console, f"Last failure: fire drill {last.drill}" if last.drill else "Last failure")
    rank = f"rank {last.rank} in " if last.rank is not None else ""
    node = f" on {last.node}" if last.node else ""
    ended = f", exit code {last.exit_code}" if last.exit_code is not None else ""
    when = f", {words.age(parse_time(last.failed_at), now)} ago" if last.failed_at else ""
    console.print(
        Text(f"{last.failure_class}: {rank}{last.pod}{node}{ended}{when}, incarnation {last.incarnation}"),
        soft_wrap=True,
    )
    if last.recover_seconds is not None:
        source = f"step {last.restored_step} ({last.source})" if last.restored_step else "step 0"
        lost = words.plural(last.lost_steps or 0, "step")
        console.print(Text(f"recovered in {last.recover_seconds:.1f} s from {source}, {lost} lost", style="green"))
    if marked := _against_nodes(job):
        console.print(Text(f"held against {marked}: {session.prog()} nodes"), soft_wrap=True)
    said = last.traceback or last.cause or ""
    console.print(Text("\n".join(f"  │ {line}" for line in said.rstrip().splitlines()), style="dim"), soft_wrap=True)


def _against_nodes(job: Job) -> str:
    """`node-1 (2 failures: Hang, Signal)` of this job; the marks are those of all jobs."""
    from disttrain.cli import words
    from disttrain.cli.nodes import failures

    found: dict[str, list[str]] = {}
    for failure in failures(job):
        found.setdefault(failure.node, []).append(str(failure.failure_class))
    return ", ".join(
        f"{node} ({words.plural(len(kinds), 'failure')}: {', '.join(sorted(set(kinds)))})"
        for node, kinds in found.items()
    )


def _conditions(console: Console, job: Job, now: datetime) -> None:
    from disttrain.cli import words
    from disttrain.sdk.job import parse_time

    if not job.status.conditions:
        return
    _title(console, "Conditions")
    grid = _grid("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE")
    for c in job.status.conditions:
        grid.add_row(c.type, c.status, c.reason, words.age(parse_time(c.last_transition_time), now), c.message)
    console.print(grid)


def _workers(console: Console, job: Job, workers: Sequence[Worker] | None, now: datetime) -> None:
    from disttrain.cli import words

    if not workers:
        return
    _title(console, "Workers")
    grid = _grid("INDEX", "POD", "PLACE", "STATUS", "NODE", "MADE FOR", "AGE")
    for worker in workers:
        made_for = f"incarnation {worker.incarnation}"
        grid.add_row(
            str(worker.index),
            worker.name,
            str(job.seats.index(worker.index)) if worker.index in job.seats else "stands by",
            worker.summary,
            worker.node or words.NONE,
            made_for,
            words.age(worker.created, now),
        )
    console.print(grid)


def _events(console: Console, events: Sequence[Happening] | None, now: datetime) -> None:
    from rich.text import Text

    from disttrain.cli import words

    if not events:
        return
    _title(console, "Events")
    grid = _grid("AGE", "REASON", "ABOUT", "MESSAGE")
    for event in events[-EVENTS_SHOWN:]:
        style = "yellow" if event.warning else ""
        grid.add_row(
            words.age(event.time, now), Text(event.reason, style=style), event.about, Text(event.message, style=style)
        )
    console.print(grid)


def _next(console: Console, job: Job) -> None:
    from rich.text import Text

    from disttrain.cli import advice

    _title(console, "Next")
    for sentence in advice.for_job(job, session.prog()):
        console.print(Text(f"  {sentence}"), soft_wrap=True)
