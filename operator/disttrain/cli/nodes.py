"""`disttrain nodes`: what failures hold against nodes, as the operator adds it up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from disttrain.cli import options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from disttrain.sdk import Client, Job
    from disttrain_operator.core.marks import Mark
    from disttrain_operator.core.model import NodeFailure

MAX_JOBS = 3
"""Named in a row."""


def nodes(
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Show the nodes on which jobs have failed, and which new pods avoid.

    Added up from the jobs of all namespaces that you may list. What the
    operator trusts by its own settings, it does not avoid (trustedNodes).
    """
    from disttrain_operator.core import marks

    client, now = session.client(kubeconfig, context, namespace), session.now()
    jobs = _jobs(client)
    found = marks.marks((tuple(failures(job)) for job in jobs), now)
    if not found:
        session.err().print("nothing is held against any node")
        return Exit.SUCCEEDED
    session.out().print(_table(found, jobs, now))
    return Exit.SUCCEEDED


def failures(job: Job) -> Iterator[NodeFailure]:
    """What a job has recorded; what a newer operator says in words that are not known here is left out."""
    from disttrain.sdk.job import parse_time
    from disttrain_contract.failures import FailureClass
    from disttrain_operator.core.model import NodeFailure

    recovery = job.status.recovery
    for found in (recovery.node_failures if recovery is not None else None) or ():
        at = parse_time(found.at)
        if at is not None and found.failure_class in set(FailureClass):
            yield NodeFailure(found.node, FailureClass(found.failure_class), at)


def _jobs(client: Client) -> Sequence[Job]:
    from disttrain.sdk.errors import NotAllowed

    try:
        return client.list(all_namespaces=True)
    except NotAllowed:
        session.err().print(f"only of namespace {client.namespace}: you may not list jobs of all namespaces")
        return client.list()


def _table(found: list[Mark], jobs: Sequence[Job], now: datetime) -> Table:
    from rich.table import Table
    from rich.text import Text

    from disttrain.cli import words

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for column in ("NODE", "MARK", "NEW PODS", "FAILURES", "LAST", "OF JOBS"):
        table.add_column(column, overflow="fold")
    for mark in found:
        length = words.length(mark.lasts.total_seconds())
        steers = Text(f"avoid it for {length}", style="yellow") if mark.steers else Text("take it")
        row = (str(mark.failures), f"{words.age(mark.last, now)} ago", _jobs_on(mark.node, jobs))
        table.add_row(mark.node, f"{mark.score:.2f}", steers, *row)
    return table


def _jobs_on(node: str, jobs: Sequence[Job]) -> str:
    """`ml/mnist (Signal), ml/cifar (Node)`"""
    said = []
    for job in jobs:
        if classes := sorted({str(f.failure_class) for f in failures(job) if f.node == node}):
            said.append(f"{job.namespace}/{job.name} ({', '.join(classes)})")
    more = f" and {len(said) - MAX_JOBS} more" if len(said) > MAX_JOBS else ""
    return ", ".join(said[:MAX_JOBS]) + more
