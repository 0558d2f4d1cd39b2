"""`disttrain explain`: what would happen to a job, without a cluster."""

from __future__ import annotations

from disttrain.cli import options, session
from disttrain.cli.exits import Exit


def explain(filename: options.File, namespace: options.Namespace = None) -> int:
    """Say what a job file would do, without a cluster.

    What is made, how it trains, what it saves, what it survives and how it ends, as the operator would decide it.
    """
    from rich.text import Text

    from disttrain.cli import sentences
    from disttrain.cli.describe import what_runs
    from disttrain.sdk import check, manifest
    from disttrain.sdk.errors import Invalid
    from disttrain.sdk.job import Job
    from disttrain_operator.shell import observe

    raw = manifest.checked(manifest.read(filename), namespace or "default")
    if wrong := check.check(raw):
        raise Invalid(f"{filename} would be refused", status=422, fields=tuple(wrong))
    full = check.completed(raw)
    view, job = Job(full), observe.job(full)
    console = session.out()
    console.print(Text(f"{view.name} in namespace {view.namespace}", style="bold"))
    for title, lines in (
        ("makes", sentences.makes(job)),
        ("runs", sentences.runs(job, what_runs(full["spec"]), view.processes)),
        ("saves", sentences.saves(job)),
        ("survives", sentences.survives(job, view.processes)),
        ("ends", sentences.ends(job)),
    ):
        for n, line in enumerate(lines):
            console.print(Text.assemble((f"{title if n == 0 else '':<10}", "dim"), line), soft_wrap=True)
    return Exit.SUCCEEDED
