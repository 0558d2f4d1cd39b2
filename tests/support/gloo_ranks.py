"""Real worker processes with real gloo between them, forked from one parent that has torch imported already."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from disttrain_contract import env as contract
from disttrain_contract.env import RunConfig
from disttrain_contract.messages import (
    Checkpoint,
    Failure,
    Order,
    Progress,
    RankEvent,
    Restore,
    decode_rank_message,
    encode_order,
)
from support import wire
from support.wire import Wire

PRELOAD = ["disttrain_runtime.worker", "torch._dynamo", "support.gloo_tasks", "support.local_tasks"]
USER = "STORY_USER"
"""In a rank's environment: the number of the user that it is."""
DEADLINE = 90.0
"""No story waits longer: the machine is slow, or a rank hangs."""

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: threads that spin make every rank wait for every other
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


@dataclass
class Told:
    """What a group said, rank by rank."""

    messages: list[tuple[int, RankEvent, Any]] = field(default_factory=list)

    def of(self, kind: type, rank: int | None = None) -> list[Any]:
        """The bodies of one kind, in order."""
        return [body for r, _, body in self.messages if isinstance(body, kind) and rank in (None, r)]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return self.of(Checkpoint)

    @property
    def restores(self) -> list[Restore]:
        return self.of(Restore)

    @property
    def progress(self) -> Progress:
        return self.of(Progress)[-1]

    def failure(self, rank: int) -> Failure:
        (failure,) = self.of(Failure, rank)
        return failure


class Ranks:
    """One incarnation: started on entry, gone on exit."""

    def __init__(
        self,
        logs: Path,
        run: RunConfig,
        world: int,
        *,
        job_dir: Path | None = None,
        incarnation: int = 1,
        uid: str = "uid-1",
        regroups: bool = False,
        env: dict[str, str] | None = None,
        wire: Wire | None = None,
    ):
        """`regroups`: the ranks hear orders, as they do from an agent, so that they outlive their group. `wire`: each process
        has a place of its own there; without it, all are on loopback."""
        self.told, self.world = Told(), world
        self._events: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._logs, self._silent, self._regroups = logs, 0, regroups
        self._started = 0
        self._sockets: dict[int, Connection] = {}
        env = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
            contract.RUN: json.dumps(asdict(run)), contract.INCARNATION: str(incarnation),
            "DISTTRAIN_JOB": "story", "DISTTRAIN_JOB_UID": uid, **(env or {}),
        }  # fmt: skip
        if job_dir is not None:
            env[contract.JOB_DIR] = str(job_dir)
        self._env, self._wire = env, wire
        self.processes = [self._start(rank, self._environment(rank, rank, leader=0)) for rank in range(world)]

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def wait_for(self, wanted: Callable[[int, Any], bool]) -> Any:
        """The first message that fits."""
        end = time.monotonic() + DEADLINE
        while True:
            rank, body = self._next(end)
            if body is not None and wanted(rank, body):
                return body

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one rank; a SIGKILL has done its work when this returns."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self.processes[rank].join()

    def regroup(self, incarnation: int, world: int | None = None, seats: Sequence[int] = ()) -> None:
        """What agents do: every rank that lives is told its place in the next group, the others are started anew.

        `seats`: only these processes belong to it, in the order of their ranks; nobody else is told anything.
        """
        self.hold(incarnation, *seats)
        self._env |= {contract.INCARNATION: str(incarnation), "MASTER_PORT": str(free_port())}
        self.world = world or len(seats) or self.world
        for rank, number in enumerate(seats or range(self.world)):
            environment = self._environment(rank, number, leader=seats[0] if seats else 0)
            if number < len(self.processes) and self.processes[number].is_alive():
                self._order(number, Order(incarnation=incarnation, environment=environment))
            else:
                self.processes[number : number + 1] = [self._start(number, environment)]

    def hold(self, incarnation: int, *who: int) -> None:
        """Tell those that live, or these of them, that their group is over."""
        for number, process in enumerate(self.processes):
            if process.is_alive() and number in (who or range(len(self.processes))):
                self._order(number, Order(incarnation=incarnation))

    def _environment(self, rank: int, number: int, leader: int) -> dict[str, str]:
        """The environment of a process that is this rank now."""
        wired = self._wire.environment(number, leader) if self._wire is not None else {}
        return self._env | place(rank, self.world) | wired

    def _order(self, rank: int, order: Order) -> None:
        os.write(self._sockets[rank].fileno(), encode_order(order))

    def ended(self) -> list[int | None]:
        """Wait for all; their exit codes (negative: a signal)."""
        end = time.monotonic() + DEADLINE
        while self._silent < self._started:
            self._next(end)
        for process in self.processes:
            process.join(max(0.1, end - time.monotonic()))
        self.ended_codes = [process.exitcode for process in self.processes]
        return self.ended_codes

    def output(self, rank: int = 0) -> str:
        """What a rank printed."""
        return (self._logs / f"rank-{rank}.log").read_text()

    def _next(self, end: float) -> tuple[int, Any]:
        try:
            rank, item = self._events.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            self._show_stacks()
            logs = "\n".join(f"--- rank {r}\n{self.output(r)}" for r in range(self.world))
            raise AssertionError(f"nothing happened for {DEADLINE} s\n{logs}") from None
        if item is None:
            self._silent += 1
            return rank, None
        event, body = item
        self.told.messages.append((rank, event, body))
        return rank, body

    def _show_stacks(self) -> None:
        """Each that lives writes where it is into what it printed."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR2)
        time.sleep(1)

    def _start(self, rank: int, env: dict[str, str]) -> Any:
        reader, writer = _context.Pipe(duplex=self._regroups)
        self._sockets[rank] = reader
        self._logs.mkdir(parents=True, exist_ok=True)
        process = _context.Process(target=rank_main, args=(env, writer, str(self._logs / f"rank-{rank}.log")))
        process.start()
        self._started += 1
        writer.close()
        threading.Thread(target=self._listen, args=(rank, reader), daemon=True).start()
        return process

    def _listen(self, rank: int, reader: Connection) -> None:
        # reset: it died with an order unread
        with os.fdopen(os.dup(reader.fileno()), "rb") as lines, suppress(ConnectionResetError):
            for line in lines:
                self._events.put((rank, decode_rank_message(line)))
        self._events.put((rank, None))


def rank_main(env: dict[str, str], writer: Connection, log: str) -> None:
    """In the forked process: become a rank as the agent would start it."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout, sys.stderr = (
        os.fdopen(1, "w", buffering=1, closefd=False),
        os.fdopen(2, "w", buffering=1, closefd=False),
    )
    faulthandler.register(signal.SIGUSR2)  # for a story that comes to no end
    if wire.NAMESPACE in env:
        wire.enter(env[wire.NAMESPACE])
    if USER in env:
        os.setgroups([])
        os.setresuid(*[int(env[USER])] * 3)
    os.environ.update(env | {contract.REPORT_FD: str(writer.fileno())})
    from disttrain_runtime.worker import leave, main

    leave(main([], os.environ))


def place(rank: int, world: int) -> dict[str, str]:
    """All ranks in one pod."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}


def writers_of(pid: int) -> list[int]:
    """The checkpoint writers that a rank has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if b"checkpoint-writer" in Path(f"/proc/{child}/cmdline").read_bytes()]


def writer_of(pid: int) -> int:
    """Its one writer, as soon as that is up."""
    end = time.monotonic() + DEADLINE
    while not (found := writers_of(pid)):
        assert time.monotonic() < end, "the rank has no writer"
        time.sleep(0.005)
    (writer,) = found
    return writer


def free_port() -> int:
    """A port that nobody listens on now, and that the kernel gives to no outgoing connection meanwhile."""
    while True:
        port = random.randrange(20000, 29000)  # below the ephemeral range
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Door:
    """Stops a rank at one exact step: it waits until the story opens the door, and the story knows that it waits."""

    def __init__(self, folder: Path, at: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"door-{at}"
        os.mkfifo(self.path)

    def arrive(self) -> None:
        """Wait until the rank stands before the door."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)  # succeeds only while somebody reads
                return
            except OSError:
                assert time.monotonic() < end, "the rank never came to the door"
                threading.Event().wait(0.005)

    def open(self) -> None:
        """Let it go on."""
        os.close(self._fd)


def digests(job_dir: Path, step: int) -> dict[str, str]:
    """The digest of each file of a checkpoint: equal digests are equal bits."""
    manifest = json.loads((job_dir / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())
    return {entry["name"]: entry["sha256"] for entry in manifest["files"]}
