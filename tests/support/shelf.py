"""Small checkpoints to damage."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain_runtime.checkpoint.fence import LOCK, Fence, Holder
from disttrain_runtime.checkpoint.manifest import Expectation, Fingerprint, ParameterShape, Sampling
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import Facts, write

SAMPLING = Sampling(seed=0, randomness="splitmix64-1", samples=100, batch_size=10)
FINGERPRINT = Fingerprint(parameters=(ParameterShape("w", "float32", (64,)),), optimizer="torch.optim.adamw.AdamW")


@dataclass
class Shelf:
    """A job's volume with checkpoints on it."""

    volume: Volume
    fence: Fence

    @property
    def expected(self) -> Expectation:
        return Expectation(job="mnist", sampling=SAMPLING, fingerprint=FINGERPRINT)

    def facts(self, step: int, **changes: Any) -> Facts:
        given: dict[str, Any] = {"job": "mnist", "step": step, "world_size": 1, "epoch": 0, "position": 0}
        return Facts(**(given | {"sampling": SAMPLING, "fingerprint": FINGERPRINT} | changes))

    def save(self, step: int, **changes: Any) -> Path:
        """A real checkpoint whose weights are all `step`."""
        import torch

        from disttrain_runtime.checkpoint.buffers import Buffers

        state = {
            "model": {"w": torch.full((64,), float(step))},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "lr": 0.1},
        }
        return write(self.volume, self.fence, Buffers().capture(state).finish(), self.facts(step, **changes)).path


def shelf_in(job_dir: Path) -> Shelf:
    """Claimed by incarnation 1."""
    volume, fence = Volume(job_dir), Fence(job_dir, Holder("uid", 1))
    volume.create()
    fence.claim()
    return Shelf(volume, fence)


def state_of(value: float) -> dict[str, Any]:
    """The state of a task whose weights are all the same."""
    import torch

    return {"model": {"w": torch.full((64,), float(value))}}


@contextmanager
def no_commit(shelf: Shelf) -> Iterator[None]:
    """Somebody holds the lock: a save under way comes as far as its commit, and waits there."""
    with (shelf.volume.job_dir / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait_for_draft(shelf: Shelf) -> None:
    """Until a save lacks nothing but its commit."""
    end = time.monotonic() + 60
    while not list(shelf.volume.checkpoints.glob(".writing-*/manifest.json")):
        assert time.monotonic() < end
        time.sleep(0.005)


def running(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_a_leader_in_mid_save(shelf: Shelf) -> None:
    """A rank of its own process commits step 1, and is killed when step 2 lacks nothing but its rename. When this
    returns, its writer is gone, too."""
    heard, say = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _lead(shelf, told, say)
        finally:
            os._exit(1)
    os.read(heard, 1)
    with no_commit(shelf):
        os.write(tell, b".")
        writer = int(os.read(heard, 20))
        assert running(writer)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        end = time.monotonic() + 60
        while running(writer):
            assert time.monotonic() < end
            time.sleep(0.001)
    for fd in (heard, say, told, tell):
        os.close(fd)


def _lead(shelf: Shelf, told: int, say: int) -> None:
    from disttrain_runtime.checkpoint.saver import Saver

    saver = Saver(shelf.volume, shelf.fence, keep=2, asynchronous=True, committed=None, rejected=())
    saver.save(state_of(1), shelf.facts(1))
    saver.finish()
    os.write(say, b".")
    os.read(told, 1)
    saver.save(state_of(2), shelf.facts(2))
    wait_for_draft(shelf)
    os.write(say, str(saver.writer_pid).encode())
    signal.pause()
