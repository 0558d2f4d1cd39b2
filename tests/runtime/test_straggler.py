"""A slow rank is named when it stays slow, and no longer when it is well."""

from __future__ import annotations

import random

import pytest

from disttrain_contract.messages import Straggler
from disttrain_runtime.straggler import PATIENCE, Suspicion, reading, slowest

EVEN = [0.10, 0.10, 0.10, 0.10]
SLOW = [0.10, 0.10, 0.40, 0.10]


def after(*readings: list[float], before: Suspicion | None = None) -> Straggler | None:
    return told(*readings, before=before).named


def told(*readings: list[float], before: Suspicion | None = None) -> Suspicion:
    suspicion = before or Suspicion()
    for seconds in readings:
        suspicion = reading(suspicion, seconds)
    return suspicion


def test_a_rank_that_is_slow_for_some_seconds_is_named() -> None:
    assert after(*[SLOW] * (PATIENCE - 1)) is None
    assert after(*[SLOW] * PATIENCE) == Straggler(rank=2, factor=4.0)


def test_a_hiccup_is_nobodys_fault() -> None:
    assert after(*[SLOW, SLOW, EVEN] * 20) is None


def test_slow_ranks_in_turn_are_no_straggler() -> None:
    turns = [[0.4 if rank == turn % 4 else 0.1 for rank in range(4)] for turn in range(40)]
    assert after(*turns) is None


def test_who_was_named_stays_so_until_it_is_well_for_some_seconds() -> None:
    named = told(*[SLOW] * PATIENCE)
    half = [0.10, 0.10, 0.14, 0.10]
    assert after(*[half] * 20, before=named) == named.named, "better is not well"
    assert after(*[EVEN] * (PATIENCE - 1), SLOW, *[EVEN] * (PATIENCE - 1), before=named) == named.named
    assert after(*[EVEN] * PATIENCE, before=named) is None


@pytest.mark.parametrize("seconds", [[], [0.1], [0.1, 0.9], [0.0, 0.0, 0.0]])
def test_there_is_no_odd_one_among_two_and_none_before_the_first_step(seconds: list[float]) -> None:
    assert slowest(seconds) is None


def test_when_all_differ_none_is_an_outlier() -> None:
    assert slowest([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) is None


def test_two_of_five_are_slow_and_the_slowest_is_named() -> None:
    assert slowest([0.1, 0.1, 0.1, 0.5, 0.3]) == Straggler(rank=3, factor=5.0)


def test_noise_names_nobody() -> None:
    """An hour of eight ranks whose times scatter by a tenth."""
    chance, suspicion = random.Random(5), Suspicion()
    for _ in range(3600):
        suspicion = reading(suspicion, [0.1 * chance.lognormvariate(0.0, 0.1) for _ in range(8)])
        assert suspicion.named is None


def test_a_group_that_has_become_smaller_forgets_who_left() -> None:
    assert after(*[EVEN[:2]] * PATIENCE, before=told(*[SLOW] * PATIENCE)) is None
