"""`disttrain list` and `disttrain get`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disttrain.cli import options, session
from disttrain.cli.exits import Exit
from disttrain.cli.options import Output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from disttrain.sdk import Client, Job

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on and show every change.")]
WIDE_ONLY = ("CHECKPOINT", "ETA", "INCARNATION", "IMAGE")


def list_jobs(
    watch: Watch = False,
    output: options.Format = Output.TABLE,
    all_namespaces: options.AllNamespaces = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """List jobs."""
    client = session.client(kubeconfig, context, namespace)
    if watch:
        return _watch(client, output, all_namespaces)
    jobs = client.list(all_namespaces=all_namespaces)
    if not jobs and output in (Output.TABLE, Output.WIDE):
        where = "any namespace" if all_namespaces else f"namespace {client.namespace}"
        session.err().print(f"no jobs in {where}")
        return Exit.SUCCEEDED
    _print(session.out(), jobs, output, all_namespaces, many=True)
    return Exit.SUCCEEDED


def get(
    name: options.Name,
    output: options.Format = Output.TABLE,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Show one job."""
    job = session.client(kubeconfig, context, namespace).get(name)
    _print(session.out(), [job], output, namespaces=False, many=False)
    return Exit.SUCCEEDED


def _watch(client: Client, output: Output, all_namespaces: bool) -> int:
    """On a terminal a table that changes; elsewhere a line (or document) for every change."""
    from disttrain.sdk.job import Job
    from disttrain.sdk.watching import Change

    console, jobs = session.out(), {job.uid: job for job in client.list(all_namespaces=all_namespaces)}
    changes = ((s.change is Change.SEEN, Job(s.raw)) for s in client.watch_all(all_namespaces=all_namespaces))
    try:
        if console.is_terminal and output in (Output.TABLE, Output.WIDE):
            _live(console, jobs, changes, output, all_namespaces)
        for there, job in changes:
            _print(console, [job], output, all_namespaces, many=False, note="" if there else " (deleted)")
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.SUCCEEDED


def _live(
    console: Console, jobs: dict[str, Job], changes: Iterable[tuple[bool, Job]], output: Output, namespaces: bool
) -> None:
    from rich.live import Live

    def ordered() -> Table:
        return table(
            sorted(jobs.values(), key=lambda j: (j.namespace, j.name)), session.now(), output is Output.WIDE, namespaces
        )

    with Live(console=console, get_renderable=ordered, refresh_per_second=2):
        for there, job in changes:
            jobs[job.uid] = job
            if not there:
                del jobs[job.uid]


def _print(
    console: Console, jobs: Iterable[Job], output: Output, namespaces: bool, *, many: bool, note: str = ""
) -> None:
    match output:
        case Output.JSON | Output.YAML:
            console.print(document([dict(job.raw) for job in jobs], output, many), soft_wrap=True, end="")
        case Output.NAME:
            for job in jobs:
                console.print(f"disttrainjob.disttrain.dev/{job.name}{note}")
        case Output.TABLE | Output.WIDE:
            console.print(table(jobs, session.now(), output is Output.WIDE, namespaces, note))


def document(raws: list[dict[str, Any]], output: Output, many: bool) -> str:
    """As kubectl prints it; managedFields are noise."""
    for raw in raws:
        raw["metadata"] = {k: v for k, v in raw["metadata"].items() if k != "managedFields"}
    whole: Any = {"apiVersion": "v1", "kind": "List", "items": raws} if many else raws[0]
    if output is Output.JSON:
        import json

        return json.dumps(whole, indent=2) + "\n"
    import yaml

    return str(yaml.safe_dump(whole, sort_keys=False, explicit_start=not many))


def table(jobs: Iterable[Job], now: datetime, wide: bool, namespaces: bool, note: str = "") -> Table:
    """Columns as in `kubectl get dtj`."""
    from rich.table import Table

    names = (
        *(("NAMESPACE",) if namespaces else ()),
        "NAME",
        "STATE",
        "WORKERS",
        "STEP",
        "LOSS",
        "RECOVERIES",
        "AGE",
        *(WIDE_ONLY if wide else ()),
    )
    found = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for name in names:
        found.add_column(name, no_wrap=True)
    for job in jobs:
        found.add_row(*_cells(job, now, wide, namespaces, note))
    return found


def _cells(job: Job, now: datetime, wide: bool, namespaces: bool, note: str) -> Iterator[Any]:
    from rich.text import Text

    from disttrain.cli import words
    from disttrain.cli.palette import state_style

    at, recovery = job.status.progress, job.status.recovery
    if namespaces:
        yield job.namespace
    yield job.name
    yield Text(job.state + note, style=state_style(job.state))
    yield words.workers(job)
    yield words.steps(job)
    yield words.number(at.loss if at is not None else None)
    yield str(recovery.count if recovery is not None else 0)
    yield words.age(job.created, now)
    if wide:
        eta = at.eta_seconds if at is not None and not job.finished else None
        yield words.checkpoint(job)
        yield words.length(eta) if eta is not None else words.NONE
        yield str(job.status.incarnation or words.NONE)
        yield str(job.spec.get("image", words.NONE))
