"""Which step a split model goes on from, who gives which part to whom, and what a copy costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.buddies import Held, Memory, _copied, caught_up, newest
from disttrain_runtime.survivors import NOTHING, Sharing

pytestmark = pytest.mark.torch


def holds(live: int, *copies: tuple[int, int], saved: int = 0) -> Memory:
    return Memory(1, saved, live, frozenset(Held(*copy) for copy in copies))


NEW = Memory(0, 0, NOTHING, frozenset())


def test_nobody_has_lost_anything() -> None:
    assert newest([holds(7), holds(7)], parts=2) == Sharing(7, {})


def test_a_replica_gives_the_part_that_the_new_rank_lacks() -> None:
    assert newest([holds(7), holds(7), NEW, holds(7)], parts=2) == Sharing(7, {2: 0})


def test_a_buddy_gives_its_copy_and_the_others_go_back_to_their_own() -> None:
    """Rank 1 died; rank 2 has its copies."""
    rank0, rank2 = holds(9, (4, 0), (6, 0), (4, 2), (6, 2)), holds(9, (4, 2), (6, 2), (4, 1), (6, 1))
    assert newest([rank0, NEW, rank2], parts=3) == Sharing(6, {1: 2})


def test_a_copy_that_had_not_arrived_is_passed_over() -> None:
    rank0, rank2 = holds(9, (4, 0), (6, 0), (4, 2), (6, 2)), holds(9, (4, 2), (6, 2), (4, 1))
    assert newest([rank0, NEW, rank2], parts=3) == Sharing(4, {1: 2})


def test_a_rank_that_had_not_finished_the_step_goes_back_with_the_others() -> None:
    """No part of step 8 is anywhere but on rank 0."""
    assert newest([holds(8, (6, 0), (6, 1)), holds(7, (6, 1), (6, 0))], parts=2) == Sharing(6, {})


def test_a_checkpoint_that_is_newer_than_the_copies_is_better() -> None:
    assert newest([holds(9, (4, 0), (4, 1), saved=5), NEW], parts=2) is None
    assert newest([holds(9, (5, 0), (5, 1), saved=5), NEW], parts=2) == Sharing(5, {1: 0})


def test_a_part_that_nobody_has() -> None:
    assert newest([holds(9, (6, 0)), NEW], parts=2) is None
    assert newest([NEW, NEW], parts=2) is None


def test_who_had_all_gradients_makes_the_update_that_the_others_have_made() -> None:
    """Rank 0 was broken off while it waited, rank 1 was not; of rank 2's part a replica has updated its own, too."""
    before = [replace(holds(7), ready=True), holds(8), NEW]
    after = caught_up(before)
    assert [m.live for m in after] == [8, 8, NOTHING] and not after[0].ready
    assert newest(before, parts=2) is None and newest(after, parts=2) == Sharing(8, {2: 0})


def test_where_nobody_has_made_an_update_nobody_makes_it() -> None:
    """One rank died before it had its gradients, perhaps."""
    ready = replace(holds(7), ready=True)
    assert caught_up([ready, holds(7), NEW]) == [ready, holds(7), NEW]


MEMORIES = st.builds(
    lambda live, copies, saved: holds(live, *copies, saved=saved),
    st.integers(NOTHING, 6),
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=5),
    st.integers(0, 3),
)


@given(st.lists(MEMORIES, min_size=3, max_size=6), st.integers(1, 3))
def test_every_rank_ends_up_with_its_part_of_one_step_or_nobody_does(memories: list[Memory], parts: int) -> None:
    found = newest(memories, parts)
    possible = [
        step
        for step in range(max(m.saved for m in memories), 7)
        if all(any(m.holds(Held(step, part), r % parts) for r, m in enumerate(memories)) for part in range(parts))
    ]
    assert (found.step if found else None) == (possible[-1] if possible else None)
    for rank, memory in enumerate(memories if found else []):
        assert found is not None
        wanted, giver = Held(found.step, rank % parts), found.givers.get(rank)
        assert memory.holds(wanted, rank % parts) == (giver is None)
        assert giver is None or memories[giver].holds(wanted, giver % parts)


@given(MEMORIES)
def test_what_a_rank_says_arrives(memory: Memory) -> None:
    assert Memory.read(memory.row()) == memory
    assert Memory.read(replace(memory, ready=True).row()).ready
    assert len(memory.row()) == len(NEW.row())


def test_a_copy_is_made_in_memory_that_is_there() -> None:
    part = {
        "model": {"w": torch.ones(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}, "groups": [{"lr": 0.1}]},
    }
    first = _copied(part, None)
    part["model"]["w"] += 1
    second = _copied(part, first)
    assert first["model"]["w"] is second["model"]["w"] and torch.equal(second["model"]["w"], torch.full((3,), 2.0))
    grown = _copied({"model": {"w": torch.ones(4)}}, second)
    assert torch.equal(grown["model"]["w"], torch.ones(4))
    assert second["optimizer"] == {"state": {0: {"step": torch.tensor(4.0)}}, "groups": [{"lr": 0.1}]}
