"""What ranks wish for, and what comes of it."""

from __future__ import annotations

from disttrain_runtime.agreement import Wishes


def test_what_is_agreed_is_the_largest_of_each_wish() -> None:
    leader, told = Wishes(save=True, early=True), Wishes(stop=3)
    rows = zip(leader.row(), told.row(), strict=True)
    assert Wishes.read([max(pair) for pair in rows]) == Wishes(stop=3, save=True, early=True)


def test_what_a_rank_says_arrives() -> None:
    assert Wishes.read(Wishes(stop=1, report=True, copy=True).row()) == Wishes(stop=1, report=True, copy=True)
