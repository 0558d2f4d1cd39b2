"""Background processes with a file each, so that a later command knows exactly which ones are ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dev.cluster import cgroups, network
from dev.cluster.command import Trouble
from dev.cluster.components import Component

# A log that was never cut would grow with every `up`; what matters is at its end.
LOG_LIMIT = 20_000_000


@dataclass(frozen=True, slots=True)
class Started:
    """A process for certain: a pid alone may be somebody else's tomorrow, a pid with its start time is not."""

    pid: int
    ticks: int


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none (or only its corpse)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in parentheses and may contain anything, also parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class Processes:
    """The processes that were started and not stopped, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ensure(self, component: Component) -> bool:
        """Start it unless it runs; True if it was started now."""
        if self.is_alive(component.name):
            return False
        _trim(component.log)
        self.folder.mkdir(parents=True, exist_ok=True)
        component.log.parent.mkdir(parents=True, exist_ok=True)
        prefix = network.inside(component.network)
        if component.mounts is not None:
            prefix.append(f"--mount={component.mounts}")
        with component.log.open("ab") as log:
            process = subprocess.Popen(
                [*prefix, "--", *component.argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, **dict(component.env)}, cwd=component.cwd or "/",
            )  # fmt: skip
        ticks = start_ticks(process.pid)
        with contextlib.suppress(ProcessLookupError):
            cgroups.enter(cgroups.SYSTEM, process.pid)
        if ticks is None or process.poll() is not None:
            raise Trouble(f"{component.name} ended at once: see {component.log}")
        self._file(component.name).write_text(json.dumps(asdict(Started(process.pid, ticks))))
        return True

    def names(self) -> list[str]:
        """Everything that was started and not stopped."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def pid(self, name: str) -> int | None:
        """The pid, if it runs."""
        try:
            started = Started(**json.loads(self._file(name).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return started.pid if start_ticks(started.pid) == started.ticks else None

    def is_alive(self, name: str) -> bool:
        """Whether the very process we started still runs."""
        return self.pid(name) is not None

    def stop(self, names: list[str], *, patience: float = 3.0) -> None:
        """Ask all of them to end, insist after a while, and forget them."""
        pids = {name: pid for name in names if (pid := self.pid(name)) is not None}
        for pid in pids.values():
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while any(self.is_alive(name) for name in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        for name, pid in pids.items():
            if self.is_alive(name):
                _signal(pid, signal.SIGKILL)
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _trim(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.unlink()
