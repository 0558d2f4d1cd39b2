"""`disttrain logs`: what all ranks print, each in its colour.

As it was printed, like `kubectl logs`: colours and progress bars are the program's own, and who asks for its log asks for
them. What stands in a status or an error is shown with its control characters made visible (`disttrain.sdk.visible`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from disttrain.cli import options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from disttrain.sdk import Client, LogLine

Ranks = Annotated[str | None, typer.Option("--rank", metavar="0,3-5", help="Only these ranks.", show_default=False)]
FollowLog = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on until the job ends, through restarts and new pods.")
]
Errors = Annotated[bool, typer.Option("--errors", help="Only tracebacks and errors, the first failing rank first.")]
Previous = Annotated[bool, typer.Option("--previous", "-p", help="The container before the present one.")]
Tail = Annotated[
    int | None,
    typer.Option("--tail", metavar="LINES", min=0, help="Only the last lines of each pod.", show_default=False),
]


def logs(
    name: options.Name,
    rank: Ranks = None,
    follow: FollowLog = False,
    errors: Errors = False,
    previous: Previous = False,
    tail: Tail = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Print what the ranks of a job print."""
    from disttrain.sdk import log_lines
    from disttrain.sdk.errors import BadInput

    if follow and (errors or previous):
        raise BadInput("--follow does not go with --errors or --previous: those look back")
    ranks = log_lines.parse_ranks(rank) if rank is not None else None
    client = session.client(kubeconfig, context, namespace)
    console = session.out()
    if errors:
        return _errors(client, name, ranks, console)
    try:
        printed = show(client.logs(name, ranks=ranks, follow=follow, previous=previous, tail=tail), console)
    except KeyboardInterrupt:
        session.err().print("the job goes on")
        return Exit.INTERRUPTED
    if not printed:
        session.err().print("nothing has been printed" + (" by these ranks" if ranks is not None else ""))
    if previous or not printed:
        _where_old_logs_are(client, name)
    return Exit.SUCCEEDED


def show(lines: Iterable[LogLine], console: Console) -> int:
    """Print lines; how many of them came from ranks and agents."""
    from rich.text import Text

    from disttrain.cli.palette import rank_style

    printed = 0
    for line in lines:
        if line.note:
            console.print(Text(f"── {line.pod}: {line.text}", style="yellow"), soft_wrap=True)
            continue
        printed += 1
        who = f"[rank {line.rank}] " if line.rank is not None else f"[{line.pod}] "
        console.print(Text.assemble((who, rank_style(line.rank)), line.text), soft_wrap=True)
    return printed


def _errors(client: Client, name: str, ranks: frozenset[int] | None, console: Console) -> int:
    from rich.text import Text

    from disttrain.cli.palette import rank_style
    from disttrain.sdk import log_lines

    job = client.get(name)
    last = job.status.recovery.last if job.status.recovery is not None else None
    found = log_lines.troubles(client.logs(name, ranks=ranks), first=last.rank if last is not None else None)
    told = last is not None and last.traceback and (ranks is None or last.rank in ranks)
    if last is not None and told:  # survives the pod that it happened in
        where = f"rank {last.rank} in {last.pod}, incarnation {last.incarnation}: {last.failure_class}"
        console.print(Text(f"── last failure, as the operator knows it: {where}", style="bold"), soft_wrap=True)
        console.print(Text((last.traceback or "").rstrip()), soft_wrap=True)
    for trouble in found:
        who = f"rank {trouble.rank}" if trouble.rank is not None else "agent"
        console.print(Text(f"── {who} in {trouble.pod}, {trouble.time}", style=f"bold {rank_style(trouble.rank)}"))
        console.print(Text("\n".join(trouble.lines)), soft_wrap=True)
    if not found and not told:
        session.err().print(f"no errors in the logs of {name}")
    return Exit.SUCCEEDED


def _where_old_logs_are(client: Client, name: str) -> None:
    """Pods that are gone take their logs along; the volume keeps a copy."""
    from disttrain.sdk.client import claim_name

    if claim := claim_name(client.get(name)):
        path = f"{name}/logs/incarnation-NNNN/rank-N.log"
        session.err().print(f"logs of every incarnation, also of pods that are gone, are in claim {claim}: {path}")
