"""Options that several commands share, spelled as kubectl spells them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAMESPACE",
        help="Namespace of the job; the context's if unset.",
        show_default=False,
    ),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", show_default=False)
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        metavar="PATH",
        help="Path of the kubeconfig; KUBECONFIG or ~/.kube/config if unset.",
        show_default=False,
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of every namespace.")]
Name = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]
File = Annotated[
    str,
    typer.Option(
        "--filename", "-f", metavar="FILE", help="Job file in YAML or JSON; - is standard input.", show_default=False
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it has happened.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="Give up waiting (exit code 124); the job goes on.", show_default=False
    ),
]


class Output(StrEnum):
    """How objects are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Format = Annotated[Output, typer.Option("--output", "-o", metavar="table|wide|json|yaml|name", help="Format.")]
