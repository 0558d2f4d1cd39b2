"""How long a step should take on a slow link, from what the docs pages say it sends. Pure.

    compute + bytes / rate + hops × delay

Bytes: what a rank sends in a step. Hops: messages of a step that wait for each other, one way each. Training that goes on while messages
travel takes the longer of the two. What comes on top, and is not in here: TCP's slow start after a pause, packing and unpacking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.strategies.formulas import Formula, Sizes
from disttrain_contract.strategy import StrategyConfig

Hops = Callable[[int], float]
"""Of so many ranks, in a step."""


@dataclass(frozen=True, slots=True)
class Link:
    """Of each rank."""

    megabits: float
    delay: float
    """Seconds, one way."""

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.megabits * 1e6 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train over the link."""

    name: str
    config: StrategyConfig
    bytes: Formula
    hops: Hops
    beside: bool = False
    """Training goes on meanwhile."""

    def seconds(self, sizes: Sizes, link: Link, compute: float) -> float:
        """Of a step that computes for so long."""
        travel = self.bytes(sizes) / link.rate + self.hops(sizes.ranks) * link.delay
        return max(compute, travel) if self.beside else compute + travel


def rings(count: float) -> Hops:
    """All-reduces, one after the other: there and back round the ring."""
    return lambda ranks: count * 2 * (ranks - 1)


def gathers(count: float) -> Hops:
    """All-gathers: once round the ring."""
    return lambda ranks: count * (ranks - 1)


def pairs(count: float, meet_every: int) -> Hops:
    """To one other rank, and a ring at each meeting."""
    return lambda ranks: count + rings(1)(ranks) / meet_every
