"""torchft, tuned: a lighthouse with a heartbeat timeout of 0.3 s (default 5 s), a tick of 10 ms (100 ms) and a join timeout
of 0.3 s (60 s); each rank a replica group of its own, started again the moment it dies. After a death the survivors wait
for the heartbeat timeout, so it is most of their recovery; below 0.3 s a busy machine takes the living for dead.

It has a virtual environment of its own (see README.md), because we do not want to depend on it.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.recovery.arms.arm import RANKS, Run, end, process

ENVIRONMENT = Path.home() / ".cache" / "disttrain-bench" / "torchft"
PYTHON = ENVIRONMENT / "bin" / "python"
LIGHTHOUSE = """
import sys, time
from torchft.coordination import LighthouseServer
server = LighthouseServer(bind="127.0.0.1:0", min_replicas=1, join_timeout_ms=300, quorum_tick_ms=10, heartbeat_timeout_ms=300)
print(server.address(), flush=True)
sys.stdin.read()
"""


class Torchft:
    """The others go on without the dead one, which comes back with a living peer's state."""

    name = "torchft"

    def missing(self) -> str | None:
        """See README.md."""
        return None if PYTHON.exists() else f"no {PYTHON}: benchmarks/recovery/README.md says how it is installed"

    @contextmanager
    def train(self, run: Run) -> Iterator[_Group]:
        """A lighthouse and three replica groups."""
        with lighthouse(run) as address, ExitStack() as stack:
            group = _Group()
            stack.callback(group.close)
            environment = run.environment() | {"BENCH_LIGHTHOUSE": address}
            for rank in range(RANKS):
                threading.Thread(target=group.keep, args=(rank, environment, run.folder), daemon=True).start()
            yield group


@contextmanager
def lighthouse(run: Run) -> Iterator[str]:
    """Its address."""
    with (run.folder / "lighthouse.log").open("wb") as log:
        started = subprocess.Popen(
            [PYTHON, "-c", LIGHTHOUSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        assert started.stdout is not None
        yield started.stdout.readline().decode().strip()
    finally:
        end(started)


class _Group:
    def __init__(self) -> None:
        self._closed = threading.Event()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def keep(self, rank: int, environment: Mapping[str, str], folder: Path) -> None:
        """Start a rank, and start it again whenever it ends: no supervisor could be quicker."""
        script = ["-m", "benchmarks.recovery.arms.torchft_script"]
        while not self._closed.is_set():
            log = folder / f"rank-{rank}.log"
            with process(script, {**environment, "BENCH_RANK": str(rank)}, log, str(PYTHON)) as started:
                with self._lock:
                    self._running[rank] = started
                if self._closed.is_set():
                    return
                started.wait()

    def close(self) -> None:
        """End all."""
        self._closed.set()
        with self._lock:
            running = list(self._running.values())
        for started in running:
            started.kill()

    def facts(self) -> Mapping[str, Any]:
        return {}

    def delete_pod(self, rank: int, pid: int) -> None:
        raise NotImplementedError("no pods here")

    def alive(self) -> bool:
        return True
