"""Time to accuracy on a slow link: every arm in the same namespaces, one after the other, beside what theory says of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import override

from benchmarks.strategies import wire
from benchmarks.strategies.arms import ARMS, arm
from benchmarks.strategies.bare import Local
from benchmarks.strategies.bare_ddp import Ddp
from benchmarks.strategies.crew import collect, context, free_port, place, play, together
from benchmarks.strategies.digits import perceptron
from benchmarks.strategies.formulas import Sizes
from benchmarks.strategies.loop import Enough, Loop
from benchmarks.strategies.report import BARE, arrival
from benchmarks.strategies.theory import Link
from disttrain_contract.strategy import StrategyConfig
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
LOOK = 8
"""Steps between measurements, if all ranks are together then."""
SEED = 1
ALONE = 32
"""Steps that are timed without any link."""
Points = list[dict[str, float]]


def measure(seconds: float, only: Sequence[str] | None, found: dict[str, Any]) -> Iterator[str]:
    """One arm after the other, each put into `found`; says how it went."""
    if "runs" not in found:
        found.clear()
    compute = statistics.median(together(RANKS, computing))
    found |= {
        "megabits": wire.MEGABITS, "delay_ms": 1000 * wire.DELAY, "rtt_ms": wire.round_trip(context), "ranks": RANKS,
        "target": TARGET, "limit": seconds, "compute_ms": 1000 * compute,
    }  # fmt: skip
    runs: dict[str, Any] = found.setdefault("runs", {})
    task = perceptron(1)
    sizes = Sizes(tuple(tuple(p.shape) for p in task.model.parameters()), RANKS, task.batch_size)
    for one in (each for each in ARMS if not only or each.name in only):
        points = far_apart(one.name, seconds)
        runs[one.name] = {
            "points": points, "load": os.getloadavg()[0], "bytes": one.bytes(sizes),
            "theory_seconds": one.seconds(sizes, Link(wire.MEGABITS, wire.DELAY), compute),
        }  # fmt: skip
        found["runs"] = {each.name: runs[each.name] for each in ARMS if each.name in runs}
        last = points[-1]
        yield (
            f"link: {one.name}: step {last['step']:.0f} after {last['seconds']:.0f} s, accuracy {last['accuracy']:.3f}"
        )


def computing() -> float:
    """Seconds of a step on this rank while all others compute, too, and nobody sends anything."""
    group = form_group(Place.from_env(os.environ), lambda: False)
    alone = _Alone(perceptron(ALONE), {})
    times = []
    for _ in range(ALONE):
        group.barrier()
        began = time.perf_counter()
        alone.step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class _Alone(Local):
    """Nobody else."""

    @override
    def exchange(self) -> None:
        pass


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
    return bare(seconds) if name == BARE else ours(arm(name).config, seconds)


class _Watch:
    """Time that training took, with accuracy measured now and then while the clock stands."""

    def __init__(self, seconds: float) -> None:
        self.points: Points = [{"step": 0, "seconds": 0.0, "accuracy": 0.1}]
        self._limit, self._took = seconds, 0.0

    def start(self) -> None:
        dist.barrier()
        self._begun = time.monotonic()

    def stop(self) -> None:
        self._took += time.monotonic() - self._begun

    def enough(self, step: int, accuracy: float) -> bool:
        """Whether the target is reached, or the time is up, alike on all ranks: rank 0's clock counts."""
        self.points.append({"step": step, "seconds": self._took, "accuracy": accuracy})
        there = arrival(self.points, TARGET) is not None
        over = torch.tensor([there or self._took >= self._limit or step >= STEPS])
        dist.broadcast(over, 0)
        return bool(over)


def ours(config: StrategyConfig, seconds: float) -> Points:
    """The whole training loop."""
    loop = Loop(partial(perceptron, STEPS + 1), config, SEED)
    group = loop.join()
    watch = _Watch(seconds)

    def look(step: int) -> None:
        if step % LOOK or (step and not loop.strategy.meets(step)):
            return
        if step:
            watch.stop()
            found = evaluate(loop.task, loop.strategy.evaluation_model(), group, loop.strategy.seat, lambda phase: None)
            if watch.enough(step, found["accuracy"]):
                raise Enough
        watch.start()

    loop.run(look)
    return watch.points


def bare(seconds: float) -> Points:
    """DDP, in a loop of its own."""
    group = form_group(Place.from_env(os.environ), lambda: False)
    reseed(SEED, Stream.BUILD, 0, 0)
    ddp = Ddp(perceptron(STEPS + 1), {})
    assert ddp.task.schedule is not None
    schedule = ddp.task.schedule(ddp.optimizer)
    watch = _Watch(seconds)
    watch.start()
    for step in range(1, STEPS + 1):
        ddp.step()
        schedule.step()
        if step % LOOK == 0:
            watch.stop()
            seat = Seat(group.rank, group.world_size, group.rank)
            found = evaluate(ddp.task, ddp.task.model, group, seat, lambda phase: None)
            if watch.enough(step, found["accuracy"]):
                break
            watch.start()
    return watch.points
