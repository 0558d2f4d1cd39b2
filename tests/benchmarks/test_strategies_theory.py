"""What theory says of the slow link, worked out by hand."""

from __future__ import annotations

import pytest
from benchmarks.strategies.arms import ARMS, BUCKETS, POWER_RINGS, arm
from benchmarks.strategies.formulas import Sizes
from benchmarks.strategies.theory import Arm, Link, gathers, pairs, rings

from disttrain_contract.strategy import StrategyConfig

LINK = Link(megabits=80, delay=0.02)
"""Ten million bytes a second."""
FOUR = Sizes(shapes=((1000, 1000),), ranks=4, batch=96)
"""4 MB, of which a rank sends 6 in an all-reduce."""


def seconds(name: str, compute: float = 0.0) -> float:
    return arm(name).seconds(FOUR, LINK, compute)


def test_a_step_computes_then_sends_then_waits_for_the_last_hop() -> None:
    assert seconds("bare DDP", compute=0.05) == pytest.approx(0.05 + 0.6 + 6 * 0.02)


def test_training_beside_messages_takes_the_longer_of_both() -> None:
    """A round of four steps: 0.6 s of sending and six hops."""
    assert seconds("asyncRing", compute=0.05) == pytest.approx((0.6 + 0.12) / 4)
    assert seconds("asyncRing", compute=1.0) == 1.0


def test_messages_that_wait_for_each_other_can_cost_more_than_they_save() -> None:
    """powerSGD sends a hundredth of it in six all-reduces, one after the other."""
    assert seconds("powerSGD") == pytest.approx(1.5 * 4 * 4 * 2000 / 1e7 + BUCKETS * POWER_RINGS * 0.12)
    assert seconds("powerSGD") > seconds("bare DDP")


def test_hops_of_collectives() -> None:
    assert (rings(2)(4), gathers(1)(4), pairs(1, 12)(4)) == (12, 3, 1.5)


def test_what_is_exchanged_less_often_is_promised_to_be_quicker() -> None:
    order = ["diLoCo", "asyncRing", "modelAveraging", "gossip", "bare DDP"]
    times = [seconds(name, compute=0.02) for name in order]
    assert times == sorted(times)


def test_every_arm_has_a_name_of_its_own_and_can_be_told_by_it() -> None:
    assert len({one.name for one in ARMS}) == len(ARMS)
    one = Arm(name="x", config=StrategyConfig(), bytes=lambda s: 0.0, hops=lambda ranks: 0.0)
    assert one.seconds(FOUR, LINK, 0.5) == 0.5
