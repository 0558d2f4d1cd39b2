"""Replicas that are not in step learn as much: real digits, against five seeds of plain synchronous training.

What may be late is made as late as it may be, so that the staleness is what it says here, and the result the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import fmean

import pytest

pytest.importorskip("torch")

from disttrain_contract.strategy import StrategyConfig, Synchronization
from support.gloo_group import together
from support.strategy_stories import accuracies, each

pytestmark = [pytest.mark.torch, pytest.mark.timeout(240)]

WORLD = 3
SEEDS = tuple(range(5))
SHORT, LONG = 4, 16
"""Epochs of 25 steps: the long ones are nearly at their end, where seeds differ by 2 %."""


def config(method: str, **chosen: int) -> StrategyConfig:
    return StrategyConfig(synchronization=Synchronization(method=method, **chosen))  # type: ignore[arg-type]


METHODS = {
    "asyncRing": config("asyncRing", max_staleness=4),
    "parameterServer": config("parameterServer", max_staleness=4),
    "gossip": config("gossip"),
    "roundRobin": config("roundRobin", every_steps=4),
    "modelAveraging": config("modelAveraging", every_steps=8),
    "diLoCo": config("diLoCo", every_steps=10),
}
"""The ring: 4 steps late. Servers: 4 updates. The others hear nothing for 1 step from two of three, for 12, 8, and 10 steps."""


def staleness(method: str, steps: int) -> dict[str, float]:
    """What is to be measured, worked out: everything is as late as it may be."""
    if (
        method == "asyncRing"
    ):  # 50 rounds between meetings, where the last four are waited for after 3, 2, 1 and 0 steps
        return {"staleness": (46 * 4 + 3 + 2 + 1) / 50, "maxStaleness": 4}
    if (
        method == "parameterServer"
    ):  # meetings every 16 steps; behind one an update more is missing in each step, up to four
        return {"stalenessMean": fmean(min(step % 16, 4) for step in range(steps)), "stalenessMax": 4}
    return {}


@cache
def synchronous(epochs: int) -> list[float]:
    """What one process that sees the global batches gets right in the test, by seed."""
    (found, _), *_ = together(1, accuracies, StrategyConfig(), SEEDS, epochs)
    return list(found)


def learnt(methods: Sequence[str], seeds: Sequence[int], epochs: int) -> dict[str, float]:
    """The mean accuracy of each, at the staleness that is said."""
    told = together(WORLD, each, {name: METHODS[name] for name in methods}, accuracies, seeds, epochs, True)[0]
    for name, (_, metrics) in told.items():
        for key, value in staleness(name, 25 * epochs).items():
            assert metrics[key] == pytest.approx(value), (name, key)
    return {name: fmean(found) for name, (found, _) in told.items()}


def test_one_seed_of_each_is_within_the_spread_of_synchronous_training() -> None:
    reference, found = synchronous(SHORT), learnt(list(METHODS), SEEDS[:1], SHORT)
    assert min(found.values()) >= min(reference), (found, reference)


@pytest.mark.accuracy
@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_five_seeds_is_within_the_spread_of_synchronous_training(method: str) -> None:
    reference, found = synchronous(LONG), learnt([method], SEEDS, LONG)
    assert found[method] >= min(reference), (found, reference)
