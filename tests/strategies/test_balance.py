"""Where a chain of layers is cut: pure, so it can be compared with trying everything."""

from __future__ import annotations

from itertools import combinations

import pytest

pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.pipeline.balance import CHUNKS, balanced, explicit, home
from disttrain_runtime.strategies.mesh import spot_of

pytestmark = pytest.mark.torch


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 9))
def test_no_other_cut_has_a_cheaper_dearest_run(costs: list[int], parts: int) -> None:
    if parts > len(costs):
        with pytest.raises(EntrypointError, match="fewer stages"):
            balanced(costs, parts)
        return
    runs = balanced(costs, parts)
    assert [a for a, _ in runs][1:] == [b for _, b in runs][:-1]
    assert (runs[0][0], runs[-1][1], len(runs)) == (0, len(costs), parts)
    assert all(a < b for a, b in runs)
    every = ([0, *cut, len(costs)] for cut in combinations(range(1, len(costs)), parts - 1))
    cheapest = min(max(sum(costs[a:b]) for a, b in zip(ends, ends[1:], strict=False)) for ends in every)
    assert max(sum(costs[a:b]) for a, b in runs) == cheapest


@given(st.integers(1, 5), st.sampled_from(sorted(CHUNKS)))
def test_every_stage_gets_equally_many_runs(stages: int, schedule: str) -> None:
    homes = [home(chunk, stages, schedule) for chunk in range(CHUNKS[schedule] * stages)]
    assert sorted(homes) == sorted(list(range(stages)) * CHUNKS[schedule])
    if schedule == "zeroBubble":
        assert homes == homes[::-1], "a V: the last run is where the first one is"


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_every_spot_of_the_grid_is_taken_once(replicas: int, stages: int, shards: int) -> None:
    world = replicas * stages * shards
    spots = [spot_of(rank, world, stages, shards) for rank in range(world)]
    assert len({(s.replica, s.stage, s.shard) for s in spots}) == world
    assert {s.replicas for s in spots} == {replicas}


@pytest.mark.parametrize(
    ("begins", "says"),
    [
        (["x"], "names 'x'"),
        (["b", "c"], "has 2 names"),
        (["a"], "not the first layer"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(begins: list[str], says: str) -> None:
    with pytest.raises(EntrypointError, match=says):
        explicit(["a", "b", "c"], begins, 2)


def test_a_cut_by_name() -> None:
    assert explicit(["a", "b", "c"], ["c"], 2) == [(0, 2), (2, 3)]
