"""torchrun, tuned: it looks after its workers ten times a second and never runs out of restarts.

Each restart gets a store of its own. By default torch 2.15 lets all restarts share one, where the addresses of the dead
group are found by the new one: with gloo most restarts then fail with "Connection refused", for ever or many times over.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.recovery.arms.arm import RANKS, Run, process

OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class Torchrun:
    """All ranks are restarted, and go on from the newest checkpoint."""

    name = "torchrun"

    def missing(self) -> str | None:
        """It comes with torch."""
        return None

    @contextmanager
    def train(self, run: Run) -> Iterator[_Group]:
        """One agent for the three ranks."""
        argv = [
            "-m", "torch.distributed.run", "--standalone", "--rdzv-backend=c10d", f"--nproc-per-node={RANKS}",
            "--max-restarts=1000", "--monitor-interval=0.1", "-m", "benchmarks.recovery.arms.torchrun_script",
        ]  # fmt: skip
        with process(argv, run.environment() | OWN_STORE, run.folder / "torchrun.log") as started:
            yield _Group(started)


class _Group:
    def __init__(self, started: subprocess.Popen[bytes]) -> None:
        self._started = started

    def facts(self) -> Mapping[str, Any]:
        return {}

    def delete_pod(self, rank: int, pid: int) -> None:
        raise NotImplementedError("no pods here")

    def alive(self) -> bool:
        return self._started.poll() is None
