"""What the ranks do. Each story runs in fresh processes of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch.distributed as dist

from benchmarks.strategies.bare_loop import Bare
from benchmarks.strategies.loop import Enough, Loop
from benchmarks.strategies.loops import LOOPS
from benchmarks.strategies.rows import BLOCK, Row, named
from benchmarks.strategies.workload import MODELS
from disttrain_runtime.config import Place
from disttrain_runtime.connections import Connections
from disttrain_runtime.groups import leave_group
from disttrain_runtime.rendezvous import form_group

COUNTED = 2 * BLOCK
"""Steps whose bytes are counted; they begin after one BLOCK."""
NEVER = 10**6
"""The task would end here; what is measured, ends earlier."""
TINY = 8
"""Width of the model that is trained first: code and buffers that are loaded once are there when memory is counted."""


def counted(name: str, ours: bool) -> dict[str, float]:
    """Bytes a step, and by how much the most memory ever held exceeds what was held before there was a model, in MB."""
    row = named(name)
    count = _ours_sent if ours else _bare_sent
    count(row, TINY)
    leave_group()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    before = _settled()
    sent = count(row, row.width)
    peak = _memory("VmHWM")
    dist.barrier()
    return {"bytes": sent / COUNTED, "megabytes": peak - before}


def _ours_sent(row: Row, width: int) -> int:
    # Copies for buddies come by the clock: how many fall into the counted steps says nothing about a step.
    loop = Loop(partial(MODELS[row.model], NEVER, width), row.config, buddy_every=0)
    loop.join()
    sent: list[int] = []

    def look(step: int) -> None:
        if step in (BLOCK, BLOCK + COUNTED):
            sent.append(loop.connections.sent())
        if len(sent) == 2:
            raise Enough

    loop.run(look)
    return sent[1] - sent[0]


def _bare_sent(row: Row, width: int) -> int:
    connections = Connections()
    form_group(Place.from_env(os.environ), lambda: False)
    bare = make_bare(row, width)
    _repeat(bare.step)
    dist.barrier()
    sent = connections.sent()
    for _ in range(COUNTED // BLOCK):
        _repeat(bare.step)
    return connections.sent() - sent


def make_bare(row: Row, width: int) -> Bare:
    """The loop beside a row, in the present group."""
    return LOOPS[row.bare](MODELS[row.model](NEVER, width), row.chosen)


def raced(name: str, blocks: int) -> dict[str, list[float]]:
    """Seconds and processor seconds a step, block by block: ours and the bare loop take turns in the same processes.

    The first block of each does not count.
    """
    row = named(name)
    loop = Loop(partial(MODELS[row.model], NEVER, row.width), row.config)
    loop.join()
    bare = make_bare(row, row.width)
    found: dict[str, list[float]] = {"ours": [], "bare": [], "ours_cpu": [], "bare_cpu": []}
    clock = _Clock(found)

    def turn(step: int) -> None:
        if step % BLOCK:
            return
        if step:
            clock.stop("ours")
        if len(found["ours"]) > blocks:
            raise Enough
        clock.start()
        _repeat(bare.step)
        clock.stop("bare")
        clock.start()

    loop.run(turn)
    return {arm: [seconds / BLOCK for seconds in times[1:]] for arm, times in found.items()}


class _Clock:
    """From when all ranks are here until all are here again."""

    def __init__(self, found: dict[str, list[float]]) -> None:
        self._found = found

    def start(self) -> None:
        dist.barrier()
        self._begun, self._processor = time.perf_counter(), time.process_time()

    def stop(self, arm: str) -> None:
        dist.barrier()
        self._found[arm].append(time.perf_counter() - self._begun)
        self._found[f"{arm}_cpu"].append(time.process_time() - self._processor)


def learnt(name: str, steps: int, seed: int) -> float:
    """Accuracy on the digits example's test images after so many steps."""
    from benchmarks.strategies.digits import build

    loop = Loop(partial(build, steps), named(name).config, seed)
    loop.join()
    loop.run(lambda step: None)
    return float(loop.metrics["accuracy"])


def _repeat(step: Callable[[], None]) -> None:
    for _ in range(BLOCK):
        step()


def _settled() -> float:
    """Memory in MB once nothing is left of what went before; the kernel's mark of the highest starts anew."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not this C library
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(what: str) -> float:
    """Of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == what:
            return int(rest.split()[0]) / 1000
    raise LookupError(what)
