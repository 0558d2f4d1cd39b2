"""Which checkpoints go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.checkpoint.retention import to_delete

steps = st.sets(st.integers(1, 50))


def test_the_newest_three_stay() -> None:
    assert to_delete({10, 20, 30, 40, 50}, latest=50, rejected=(), keep=3) == (10, 20)


def test_one_that_did_not_verify_takes_nobodys_place() -> None:
    assert to_delete({10, 20, 30, 40}, latest=40, rejected={30}, keep=2) == (10, 30)


def test_newer_ones_than_the_latest_are_left_alone_until_they_are_passed() -> None:
    assert to_delete({10, 20, 90}, latest=20, rejected={90}, keep=1) == (10,)


@given(steps, st.integers(1, 50), steps, st.integers(-1, 5))
def test_the_latest_committed_one_is_never_deleted(found: set[int], latest: int, rejected: set[int], keep: int) -> None:
    assert latest not in to_delete(found | {latest}, latest, rejected, keep)


@given(steps, st.integers(1, 50), steps, st.integers(1, 5))
def test_at_most_keep_good_ones_remain_up_to_the_latest(
    found: set[int], latest: int, rejected: set[int], keep: int
) -> None:
    found = found | {latest}
    left = found - set(to_delete(found, latest, rejected, keep))
    assert len([s for s in left if s <= latest]) <= keep
    assert {s for s in found if s > latest} <= left


def test_the_best_stays_beside_the_newest_while_it_is_the_best() -> None:
    assert to_delete({10, 20, 30, 40, 50}, latest=50, rejected=(), keep=2, best=(20, 30)) == (10, 30)


def test_the_best_before_stays_until_the_best_is_on_the_disk() -> None:
    assert to_delete({10, 20, 40}, latest=40, rejected=(), keep=1, best=(30, 20)) == (10,)


def test_a_best_one_that_did_not_verify_is_not_kept() -> None:
    assert to_delete({10, 20, 40}, latest=40, rejected={20}, keep=1, best=(20, 10)) == (20,)
