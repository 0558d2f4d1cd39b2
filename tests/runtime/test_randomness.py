"""Randomness is a function of (seed, step, rank), the same for ever."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.randomness import Stream, key, permutation


def test_keys_are_fixed_by_definition() -> None:
    """A change here would silently change every resumed run: raise SCHEME if it is meant."""
    assert key(0) == 0xE220A8397B1DCDAF, "the first number of splitmix64 from seed 0, as published"
    assert key(0, Stream.MODEL, 7, 2) == 0xFA516F7F18E7A92F
    assert permutation(0, 0, 12).tolist() == [10, 6, 1, 2, 3, 8, 4, 7, 9, 5, 0, 11]


def test_neighbours_have_nothing_in_common() -> None:
    keys = {
        key(seed, stream, step, rank)
        for seed in range(3)
        for stream in Stream
        for step in range(50)
        for rank in range(8)
    }
    assert len(keys) == 3 * len(Stream) * 50 * 8
    ones = np.mean([bin(k).count("1") for k in keys])
    assert 31 < ones < 33, "half of the bits, on average"


@given(st.integers(-(2**63), 2**63), st.integers(0, 10**6), st.integers(1, 500))
def test_an_epoch_is_a_permutation_and_the_next_is_another(seed: int, epoch: int, samples: int) -> None:
    order = permutation(seed, epoch, samples)
    assert sorted(order.tolist()) == list(range(samples))
    if samples > 20:
        assert order.tolist() != permutation(seed, epoch + 1, samples).tolist()


def test_places_are_shared_out_evenly() -> None:
    """Chi-square over 4,000 epochs of 8 samples: every sample is as often first as any other."""
    first = np.bincount([permutation(1, epoch, 8)[0] for epoch in range(4000)], minlength=8)
    assert ((first - 500) ** 2 / 500).sum() < 24.3, "99.9 % quantile for 7 degrees of freedom"
