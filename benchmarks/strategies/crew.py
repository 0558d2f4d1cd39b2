"""A function on every rank of a group of fresh processes, forked from one parent that has torch imported already."""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

Story = Callable[..., Any]
"""(place, …) → what this rank has measured, picklable. Importable, not a closure."""
PRELOAD = ["benchmarks.strategies.stories", "benchmarks.strategies.bubble", "benchmarks.strategies.link"]
SECONDS = 300.0
"""No story takes longer: it hangs."""
SCRATCH = "BENCHMARK_SCRATCH"
"""Variable: a folder that all ranks of a story share."""
_TICK = 0.2

os.environ["OMP_NUM_THREADS"] = "1"  # threads that spin make every rank wait for every other
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOAD)


def together(world: int, story: Story, *args: Any, per_worker: int | None = None) -> list[Any]:
    """What the story says on each rank, by rank. A rank that raises, or dies, makes this raise."""
    answers: Any = context.Queue()
    first, second = str(free_port()), str(free_port())
    scratch = TemporaryDirectory(prefix="disttrain-")
    where = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": first, "SECOND_PORT": second, "GLOO_SOCKET_IFNAME": "lo",
        SCRATCH: scratch.name,
    }  # fmt: skip
    ranks = [
        context.Process(target=play, args=(answers, place(r, world, per_worker) | where, story, args))
        for r in range(world)
    ]
    for rank in ranks:
        rank.start()
    try:
        return collect(answers, ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
        scratch.cleanup()


def collect(answers: Any, ranks: list[Any]) -> list[Any]:
    """Wait for one answer of each."""
    found: dict[int, Any] = {}
    end = time.monotonic() + SECONDS
    while len(found) < len(ranks):
        try:
            rank, answer, error = answers.get(timeout=_TICK)
        except queue.Empty:
            lost = [r for r, process in enumerate(ranks) if r not in found and process.exitcode not in (None, 0)]
            if lost or time.monotonic() > end:
                raise SystemExit(
                    f"ranks {lost or 'all'} of {len(ranks)} gave no answer; only {sorted(found)} did"
                ) from None
            continue
        if error is not None:
            raise SystemExit(f"rank {rank}: {error}")
        found[rank] = answer
    return [found[rank] for rank in range(len(ranks))]


def play(answers: Any, environment: Mapping[str, str], story: Story, args: tuple[Any, ...]) -> None:
    """In the process of one rank."""
    os.environ.update(environment)
    try:
        answers.put((int(environment["RANK"]), story(*args), None))
    except Exception:
        answers.put((int(environment["RANK"]), None, traceback.format_exc()))


def place(rank: int, world: int, per_worker: int | None = None) -> dict[str, str]:
    """As torchrun says it; without `per_worker` all are in one."""
    local = per_worker or world
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank % local), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local),
    }  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on now, and that the kernel gives to no outgoing connection meanwhile."""
    while True:
        port = random.randrange(20000, 29000)  # below the ephemeral range
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
