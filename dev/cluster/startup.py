"""Starting processes and waiting until they answer, with an early word when one of them dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from dev.cluster.command import Trouble
from dev.cluster.components import Component
from dev.cluster.processes import Processes
from dev.cluster.progress import Step

# The slowest start seen took 20 s on two busy cores; ten times that means that something is broken.
LIMIT_SECONDS = 200.0
PAUSE_SECONDS = 0.1
LAST_LINES = 8


class Startup:
    """One run of `up`: what it has started so far, and what a person sees of it."""

    def __init__(self, processes: Processes, shown: Step) -> None:
        self._processes = processes
        self._shown = shown
        self._logs: dict[str, Path] = {}
        self.fresh = 0

    def start(self, component: Component) -> None:
        """Start it unless it runs."""
        self.fresh += self._processes.ensure(component)
        self._logs[component.name] = component.log

    def wait(self, what: str, is_there: Callable[[], bool], *, limit: float = LIMIT_SECONDS) -> None:
        """Return when it is there; raise when a process that was started has died, or after far too long."""
        deadline = time.monotonic() + limit
        self._shown.note = f"waiting for {what}"
        while not is_there():
            for name, log in self._logs.items():
                if not self._processes.is_alive(name):
                    raise Trouble(f"{name} ended while starting: see {log}\n{_tail(log)}")
            if time.monotonic() > deadline:
                logs = ", ".join(str(log) for log in self._logs.values())
                raise Trouble(f"{what} was not there after {limit:.0f} s; the logs are {logs}")
            time.sleep(PAUSE_SECONDS)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join(f"    {text[:300]}" for text in lines)
