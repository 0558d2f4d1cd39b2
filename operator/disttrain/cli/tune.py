"""`disttrain tune`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from disttrain.cli import options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from rich.table import Table

    from disttrain.sdk.tune import Search, Trials

Filename = Annotated[
    str, typer.Option("--filename", "-f", metavar="FILE", help="Search file in YAML.", show_default=False)
]
Study = Annotated[
    Path | None,
    typer.Option(
        "--study", metavar="PATH", help="Where trials are remembered; NAME.study if unset.", show_default=False
    ),
]


def tune(
    filename: Filename,
    study: Study = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Look for good hyperparameters: trials are jobs. Started again, it goes on where it was.

    Exit code 0: at least one trial gave a value; 1: none did; 130: interrupted (the jobs go on).
    """
    from disttrain.sdk.errors import BadInput

    try:
        from disttrain.sdk.tune import Trials, Tuner, read
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is not installed", hint="pip install 'disttrain[tune]'") from None

    search = read(filename)
    own = (search.job.get("metadata") or {}).get("namespace")
    client = session.client(kubeconfig, context, namespace or own)
    with closing(Trials(study or Path(f"{search.name}.study"), search)) as trials:
        try:
            for sentence in Tuner(client, search, trials).run():
                session.err().print(sentence, soft_wrap=True)
        except KeyboardInterrupt:
            again = f"{session.prog()} tune -f {filename}" + (f" --study {study}" if study else "")
            session.err().print(f"the jobs go on; so does the search: {again}")
            return Exit.INTERRUPTED
        session.out().print(table(search, trials))
        return Exit.SUCCEEDED if trials.best() is not None else Exit.FAILED


def table(search: Search, trials: Trials) -> Table:
    """The best first, then the others as they were made."""
    from rich.table import Table

    best = trials.best()
    found = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for name in ("TRIAL", "STATE", search.metric.upper(), *search.parameters, "JOB"):
        found.add_column(name, no_wrap=True)
    for trial in sorted(trials.all(), key=lambda t: (best is None or t.number != best.number, t.number)):
        state = "best" if best is not None and trial.number == best.number else trial.state
        value = f"{trial.value:.6g}" if trial.value is not None else "-"
        cells = [_short(trial.parameters.get(name, "-")) for name in search.parameters]
        found.add_row(str(trial.number), state, value, *cells, search.job_name(trial.number))
    return found


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
