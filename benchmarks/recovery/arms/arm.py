"""What the benchmark needs from a way to train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dev.access import REPOSITORY

RANKS = 3
END_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One group: what it trains and where it keeps its things."""

    folder: Path
    megabytes: int
    every_steps: int
    """Between two checkpoints."""

    @property
    def marks(self) -> Path:
        """Where the ranks say which steps are finished."""
        return self.folder / "marks"

    def environment(self) -> dict[str, str]:
        """The same for the ranks of all arms."""
        told = {
            "FOLDER": self.folder, "MEGABYTES": self.megabytes, "EVERY_STEPS": self.every_steps, "MARKS": self.marks,
            "DIGEST_EVERY": self.every_steps,
        }  # fmt: skip
        return THREADS | {"PYTHONPATH": source_path()} | {f"BENCH_{k}": str(v) for k, v in told.items()}


THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


class Group(Protocol):
    """A group that trains."""

    def facts(self) -> Mapping[str, Any]:
        """What it says itself about its last recovery, for the phases."""

    def delete_pod(self, rank: int, pid: int) -> None:
        """The pod of this rank, whose process this is, by force. Raises NotImplementedError where there are no pods."""

    def alive(self) -> bool:
        """False: it has given up, and waiting for it is vain."""


class Arm(Protocol):
    """A way to train that survives the death of a rank."""

    name: str

    def missing(self) -> str | None:
        """Why it cannot run here."""

    def train(self, run: Run) -> AbstractContextManager[Group]:
        """Start a group; end all of it afterwards."""


def source_path() -> str:
    """PYTHONPATH of everything that a rank may import."""
    return ":".join(str(REPOSITORY / part) for part in ("", "operator", "trainer_image"))


@contextmanager
def process(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, python: str = sys.executable
) -> Iterator[subprocess.Popen[bytes]]:
    """`python argv…` as the leader of a session; SIGTERM and a while later SIGKILL to all of it."""
    with log.open("ab") as out:
        started = subprocess.Popen(
            [python, *argv], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, cwd=REPOSITORY,
        )  # fmt: skip
    try:
        yield started
    finally:
        end(started)


def end(started: subprocess.Popen[bytes]) -> None:
    """The process and its group."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        started.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(END_SECONDS)
