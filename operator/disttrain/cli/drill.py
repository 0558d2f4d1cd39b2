"""`disttrain drill`: break something on purpose, and see how the job recovers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from disttrain.cli import options, session
from disttrain.cli.exits import Exit
from disttrain_contract.drill import Fault

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from disttrain.sdk.course import Order, Result

MAX_CAUSE = 80
"""A cause may be a page; the table is not the place for it."""

FaultName = Annotated[
    Fault, typer.Option("--fault", metavar="FAULT", help=f"One of {', '.join(Fault)}.", show_default=False)
]
Rank = Annotated[
    int | None, typer.Option("--rank", min=0, metavar="R", help="The rank to kill or stop.", show_default=False)
]
Worker = Annotated[
    int | None,
    typer.Option("--worker", min=0, metavar="W", help="The worker to hit; the last one if unset.", show_default=False),
]
AtStep = Annotated[int, typer.Option("--at-step", min=0, metavar="N", help="Wait until this step is finished.")]
Repeat = Annotated[int, typer.Option("--repeat", min=1, metavar="K", help="So many times, with new steps in between.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, max=600, metavar="S", help="How long a disk stays full.")]
Limit = Annotated[float, typer.Option("--timeout", min=1, metavar="S", help="Longest time to a recovery.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OperatorNamespace = Annotated[
    str, typer.Option("--operator-namespace", metavar="NAMESPACE", help="For kill-operator: where it lives.")
]


def drill(
    name: options.Name,
    fault: FaultName,
    rank: Rank = None,
    worker: Worker = None,
    at_step: AtStep = 0,
    repeat: Repeat = 1,
    timeout: Limit = 300.0,
    seconds: Seconds = 10.0,
    yes: Yes = False,
    operator_namespace: OperatorNamespace = "disttrain-system",
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Break something on purpose, and see how the job recovers.

    A drill is a real failure: it is counted and charged like one. Exit code 0 when the job recovered, 1 when not in time.
    """
    from disttrain.sdk.course import Order

    order = Order(
        fault=fault, rank=rank, worker=worker, at_step=at_step, repeat=repeat, timeout=timeout, seconds=seconds,
        operator_namespace=operator_namespace,
    )  # fmt: skip
    _check(order)
    client, note = session.client(kubeconfig, context, namespace), session.err()
    results: list[Result] = []
    if not yes:
        _ask(f"{fault}, {repeat} times, to job {name} in namespace {client.namespace}: really?")
    try:
        for result in client.drill(name, order, note.print):
            results.append(result)
    except KeyboardInterrupt:
        note.print("the job goes on")
        return Exit.INTERRUPTED
    finally:
        if results:
            show(session.out(), results)
    return Exit.SUCCEEDED if all(result.recovered for result in results) else Exit.FAILED


def show(console: Console, results: Sequence[Result]) -> None:
    """The table, and the middle of several."""
    console.print(table(results))
    if line := medians(results):
        console.print(line)


def table(results: Sequence[Result]) -> Table:
    """A line for each drill."""
    from rich.table import Table

    found = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for title in ("FAULT", "WHERE", "STEP", "CLASS", "DETECTED", "RECOVERED", "STATE FROM", "LOST STEPS"):
        found.add_column(title, no_wrap=True)
    found.add_column("CAUSE", overflow="fold")
    for result in results:
        found.add_row(*_cells(result))
    return found


def medians(results: Sequence[Result]) -> str:
    """Of the drills that the job recovered from; empty when there is nothing to take a middle of."""
    from statistics import median

    good = [r for r in results if r.recovered]
    if len(results) < 2 or not good:
        return ""
    parts = []
    for what, values in (
        ("detected", [r.detect_seconds for r in good if r.detect_seconds is not None]),
        ("recovered", [r.recover_seconds for r in good if r.recover_seconds is not None]),
    ):
        if values:
            parts.append(f"{what} in {median(values):.2f} s")
    lost = [r.lost_steps for r in good if r.lost_steps is not None]
    parts += [f"lost steps {median(lost):g}"] if lost else []
    return f"median of {len(good)}: {', '.join(parts)}" + (
        f"; {len(results) - len(good)} not recovered" if len(good) < len(results) else ""
    )


def _cells(result: Result) -> tuple[str, ...]:
    from disttrain.cli.words import NONE

    cause = " ".join(result.cause.split())
    recovered = _seconds(result.recover_seconds)
    return (
        result.fault,
        result.where,
        str(result.step),
        result.failure_class or NONE,
        _seconds(result.detect_seconds),
        recovered if result.recovered else "no",
        result.source or NONE,
        NONE if result.lost_steps is None else str(result.lost_steps),
        cause if len(cause) <= MAX_CAUSE else cause[: MAX_CAUSE - 1] + "…",
    )


def _seconds(value: float | None) -> str:
    from disttrain.cli.words import NONE

    return NONE if value is None else f"{value:.2f} s"


def _check(order: Order) -> None:
    """What cannot be meant, before anybody is asked."""
    from disttrain.sdk.course import OF_A_POD, OF_A_RANK
    from disttrain.sdk.errors import BadInput
    from disttrain.sdk.faults import NO_PARTITION, PARTITION_HINT

    if order.fault is Fault.PARTITION:
        raise BadInput(NO_PARTITION, hint=PARTITION_HINT)
    if order.rank is not None and order.fault not in OF_A_RANK:
        raise BadInput(f"{order.fault} hits no rank: leave --rank out")
    if order.worker is not None and order.fault not in OF_A_RANK | OF_A_POD:
        raise BadInput(f"{order.fault} hits no worker: leave --worker out")
    if order.rank is not None and order.worker is not None:
        raise BadInput("--rank says which worker: leave --worker out")


def _ask(question: str) -> None:
    from disttrain.sdk.errors import BadInput

    if not sys.stdin.isatty():
        raise BadInput("a drill hurts the job, and there is nobody to ask", hint="if it is meant: --yes")
    typer.confirm(question, abort=True)
