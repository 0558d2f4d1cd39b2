"""Each sample once an epoch, whoever fetches it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.sampler import SampleOrder, evaluation_shares, split

orders = st.builds(SampleOrder, seed=st.integers(0, 9), samples=st.integers(1, 60), batch_size=st.integers(1, 70))


@given(orders, st.integers(1, 7))
def test_an_epoch_shows_every_sample_exactly_once(order: SampleOrder, world: int) -> None:
    ledger: Counter[int] = Counter()
    for step in range(order.steps_per_epoch, 2 * order.steps_per_epoch):
        for rank in range(world):
            share = order.share(step, rank, world)
            ledger.update(share.indices[: share.own])
    assert ledger == Counter(range(order.samples))


@given(orders, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_the_ledger_holds_when_the_world_size_changes_at_any_step(
    order: SampleOrder, worlds: list[int], data: st.DataObject
) -> None:
    ledger: Counter[int] = Counter()
    for step in range(order.steps_per_epoch):
        world = data.draw(st.sampled_from(worlds))
        for rank in range(world):
            share = order.share(step, rank, world)
            ledger.update(share.indices[: share.own])
    assert set(ledger.values()) == {1}
    assert len(ledger) == order.samples


@given(orders, st.integers(0, 200), st.integers(1, 7))
def test_weighted_means_over_ranks_are_the_mean_over_the_batch(order: SampleOrder, step: int, world: int) -> None:
    """With each sample's gradient being its own index: DDP's mean over ranks must give the mean over samples."""
    shares = [order.share(step, rank, world) for rank in range(world)]
    means = [sum(s.indices) / len(s.indices) * s.weight(world) for s in shares]
    batch = order.global_batch(step)
    assert sum(means) / world == pytest.approx(sum(batch) / len(batch))


@given(orders, st.integers(0, 200), st.integers(1, 7))
def test_no_rank_goes_empty_handed_but_a_stand_in_weighs_nothing(order: SampleOrder, step: int, world: int) -> None:
    shares = [order.share(step, rank, world) for rank in range(world)]
    assert all(s.indices for s in shares)
    assert shares[0].own > 0, "rank 0 always has its own: its buffers are everybody's"
    assert all(s.weight(world) == 0 for s in shares if s.own == 0)
    assert max(s.own for s in shares) - min(s.own for s in shares) <= 1
    assert sum(s.own for s in shares) == shares[0].total


def test_positions_count_samples_and_epochs() -> None:
    order = SampleOrder(seed=0, samples=10, batch_size=4)
    assert [(order.epoch(s), order.position(s)) for s in range(4)] == [(0, 0), (0, 4), (0, 8), (1, 0)]
    assert len(order.global_batch(2)) == 2


@given(st.integers(0, 100), st.integers(1, 9))
def test_split_covers_everything_in_order(count: int, parts: int) -> None:
    bounds = [split(count, part, parts) for part in range(parts)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 6))
def test_evaluation_sees_each_sample_once_over_all_ranks(samples: int, batch_size: int, world: int) -> None:
    seen = [
        i
        for rank in range(world)
        for share in evaluation_shares(samples, batch_size, rank, world)
        for i in share.indices
    ]
    assert seen == list(range(samples))
