"""Time to accuracy on a slow link: the digits example, every arm in the same namespaces, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.strategies import wire
from benchmarks.strategies.bare import Ddp
from benchmarks.strategies.crew import collect, context, free_port, place, play
from benchmarks.strategies.digits import build
from benchmarks.strategies.loop import Enough, Loop
from benchmarks.strategies.rows import BLOCK, named
from disttrain_runtime.config import Place
from disttrain_runtime.evaluate import evaluate
from disttrain_runtime.generators import reseed
from disttrain_runtime.randomness import Stream
from disttrain_runtime.rendezvous import form_group
from disttrain_runtime.strategies.strategy import Seat

RANKS = 4
TARGET = 0.95
STEPS = 480
"""Over which the learning rate falls to zero, whether training comes so far or not: alike for all."""
WIDTH = 64
"""114,000 parameters, 0.46 MB: two directions of 100 Mbit/s are busy for 55 ms in an all-reduce, beside 120 ms of delay."""
SEED = 1
BARE = "bare DDP"
ARMS = (
    BARE, "allReduce", "bf16", "powerSGD", "topK", "sign", "modelAveraging", "diLoCo", "asyncRing", "gossip",
)  # fmt: skip
Points = list[dict[str, float]]


def measure(seconds: float, only: Sequence[str] | None, found: dict[str, Any]) -> Iterator[str]:
    """One arm after the other, each put into `found`; says how it went."""
    found |= {
        "megabits": wire.MEGABITS, "delay_ms": 1000 * wire.DELAY, "rtt_ms": wire.round_trip(context), "ranks": RANKS,
        "target": TARGET,
    }  # fmt: skip
    arms: dict[str, Points] = found.setdefault("arms", {})
    for name in [arm for arm in ARMS if not only or arm in only]:
        arms[name] = far_apart(name, seconds)
        last = arms[name][-1]
        yield f"link: {name}: step {last['step']:.0f} after {last['seconds']:.0f} s, accuracy {last['accuracy']:.3f}"


def far_apart(name: str, seconds: float) -> Points:
    """One arm on the wire."""
    answers: Any = context.Queue()
    port = str(free_port())
    pairs = [context.Pipe() for _ in range(RANKS)]
    where = {"MASTER_ADDR": wire.address(0), "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": wire.NAME}
    ranks = [
        context.Process(target=play, args=(answers, place(r, RANKS) | where, story, (other, name, seconds)))
        for r, (_, other) in enumerate(pairs)
    ]
    carrier = context.Process(target=wire.carry, args=([mine for mine, _ in pairs],))
    for process in (carrier, *ranks):
        process.start()
    try:
        points: Points = collect(answers, ranks)[0]
        return points
    finally:
        for process in (carrier, *ranks):
            process.kill()
            process.join()


def story(end: Any, name: str, seconds: float) -> Points:
    """On one rank."""
    wire.plug_in(int(os.environ["RANK"]), end)
    return _bare(seconds) if name == BARE else _ours(name, seconds)


class _Watch:
    """Time that training took, with accuracy measured every BLOCK steps while the clock stands."""

    def __init__(self, seconds: float) -> None:
        self.points: Points = [{"step": 0, "seconds": 0.0, "accuracy": 0.1}]
        self._limit, self._took = seconds, 0.0

    def start(self) -> None:
        dist.barrier()
        self._begun = time.monotonic()

    def stop(self) -> None:
        self._took += time.monotonic() - self._begun

    def enough(self, step: int, accuracy: float) -> bool:
        """Whether the time is up, alike on all ranks: rank 0's clock counts."""
        self.points.append({"step": step, "seconds": self._took, "accuracy": accuracy})
        over = torch.tensor([self._took >= self._limit or step >= STEPS])
        dist.broadcast(over, 0)
        return bool(over)


def _ours(name: str, seconds: float) -> Points:
    loop = Loop(partial(build, STEPS + 1, WIDTH), named(name).config, SEED)
    group = loop.join()
    watch = _Watch(seconds)

    def look(step: int) -> None:
        if step % BLOCK:
            return
        if step:
            watch.stop()
            found = evaluate(loop.task, loop.strategy.evaluation_model(), group, loop.strategy.seat, lambda phase: None)
            if watch.enough(step, found["accuracy"]):
                raise Enough
        watch.start()

    loop.run(look)
    return watch.points


def _bare(seconds: float) -> Points:
    group = form_group(Place.from_env(os.environ), lambda: False)
    reseed(SEED, Stream.BUILD, 0, 0)
    bare = Ddp(build(STEPS + 1, WIDTH), {})
    assert bare.task.schedule is not None
    schedule = bare.task.schedule(bare.optimizer)
    watch = _Watch(seconds)
    watch.start()
    for step in range(1, STEPS + 1):
        bare.step()
        schedule.step()
        if step % BLOCK == 0:
            watch.stop()
            found = evaluate(
                bare.task, bare.task.model, group, Seat(group.rank, group.world_size, group.rank), lambda phase: None
            )
            if watch.enough(step, found["accuracy"]):
                break
            watch.start()
    return watch.points
