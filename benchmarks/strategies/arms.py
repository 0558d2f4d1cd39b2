"""What runs on the slow link: strategies with the settings that somebody would choose there."""

from __future__ import annotations

from typing import Any

from benchmarks.strategies import formulas
from benchmarks.strategies.report import BARE
from benchmarks.strategies.theory import Arm, gathers, pairs, rings
from disttrain_contract.strategy import Compression, StrategyConfig, Synchronization

MEET = 16
"""Steps between meetings of methods that have no other reason to meet; DiLoCo's exchanges."""
AVERAGE, ROUND = 8, 4
"""Steps between averagings, and between rounds of the asynchronous ring."""
RANK, RATIO = 4, 0.05
"""Of powerSGD and topK. With a hundredth topK sends less and needs twice the steps."""
BUCKETS, POWER_RINGS = 2, 3
"""powerSGD finishes one of DDP's two buckets before the next, each in three all-reduces: small tensors, P, Q."""
AVERAGE_RINGS = 3
"""Is the optimizer's state alike everywhere; parameters and moments; the optimizer's counts."""


def _synchronized(method: str, **chosen: Any) -> StrategyConfig:
    return StrategyConfig(synchronization=Synchronization(method=method, **chosen))


def _compressed(method: str, **chosen: Any) -> StrategyConfig:
    return StrategyConfig(compression=Compression(method=method, **chosen))


PLAIN = StrategyConfig()
ARMS = (
    Arm(name=BARE, config=PLAIN, bytes=formulas.all_reduce, hops=rings(1)),
    Arm(name="allReduce", config=PLAIN, bytes=formulas.all_reduce, hops=rings(1)),
    Arm(name="bf16", config=_compressed("bf16"), bytes=formulas.half, hops=rings(1)),
    Arm(
        name="powerSGD", config=_compressed("powerSGD", rank=RANK), bytes=formulas.power_sgd(RANK),
        hops=rings(BUCKETS * POWER_RINGS),
    ),
    Arm(name="topK", config=_compressed("topK", ratio=RATIO), bytes=formulas.top_k(RATIO), hops=gathers(1)),
    Arm(name="sign", config=_compressed("sign"), bytes=formulas.sign, hops=gathers(1)),
    Arm(
        name="modelAveraging", config=_synchronized("modelAveraging", every_steps=AVERAGE),
        bytes=formulas.averaging(AVERAGE), hops=rings(AVERAGE_RINGS / AVERAGE),
    ),
    Arm(
        name="diLoCo", config=_synchronized("diLoCo", every_steps=MEET),
        bytes=formulas.averaging(MEET, moments=0), hops=rings(1 / MEET),
    ),
    Arm(
        name="asyncRing", config=_synchronized("asyncRing", every_steps=ROUND, max_staleness=ROUND, meet_every_steps=MEET),
        bytes=formulas.averaging(ROUND, moments=0), hops=rings(1 / ROUND), beside=True,
    ),
    Arm(
        name="gossip", config=_synchronized("gossip", meet_every_steps=MEET),
        bytes=formulas.gossip(1, MEET), hops=pairs(1, MEET),
    ),
)  # fmt: skip


def arm(name: str) -> Arm:
    """The arm of this name. Processes are told names: formulas do not travel."""
    return next(one for one in ARMS if one.name == name)
