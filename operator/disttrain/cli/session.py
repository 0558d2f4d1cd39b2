"""What a command needs: the client, the two consoles, the name it was called by. Made late, so that --help is quick."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from disttrain.sdk import Client

PIPE_WIDTH = 1000
"""A pipe has no width: nothing is wrapped or cut there."""


def prog() -> str:
    """`disttrain`, or `kubectl disttrain` when kubectl called it."""
    return "kubectl disttrain" if Path(sys.argv[0]).name.startswith("kubectl-") else "disttrain"


def client(kubeconfig: str | None, context: str | None, namespace: str | None) -> Client:
    """Connected as kubectl would be."""
    from disttrain.sdk import Client

    return Client.connect(kubeconfig=kubeconfig, context=context, namespace=namespace)


def out() -> Console:
    """Results: what a pipe should get."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Notes and errors."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else PIPE_WIDTH
    return Console(stderr=True, highlight=False, markup=False, emoji=False, width=width)


def now() -> datetime:
    """The clock is read here only."""
    return datetime.now(UTC)  # noqa: TID251
