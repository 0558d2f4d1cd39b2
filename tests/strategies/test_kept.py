"""What a replica goes back to, and the memory that meetings use again."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.strategies.kept import Kept, place_of
from disttrain_runtime.strategies.weighted_sum import Room, pack, unpack
from support.gloo_group import together
from support.strategy_stories import Meet, Run, smooth

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def test_what_was_kept_comes_back_whatever_became_of_the_original() -> None:
    kept, weight = Kept(), torch.arange(4.0)
    for value in (1.0, 2.0):
        weight.fill_(value)
        kept.keep({"model": {"weight": weight, "step": 3}})
    weight.fill_(7.0)
    given = kept.give()["model"]
    assert given["weight"].tolist() == [2.0] * 4 and given["step"] == 3
    given["weight"].zero_()
    assert kept.give()["model"]["weight"].tolist() == [2.0] * 4


def test_a_copy_that_is_there_already_is_taken_if_it_is_of_the_same_values() -> None:
    kept, weight = Kept(), torch.arange(9.0).view(3, 3)
    copy = weight.clone()
    kept.keep({"model": {"w": weight, "turned": weight.T}}, {place_of(weight): copy})
    weight.zero_()
    copy[0, 0] = 5.0
    given = kept.give()["model"]
    assert given["w"][0].tolist() == [5.0, 1.0, 2.0], "the copy itself was taken"
    assert given["turned"][0].tolist() == [0.0, 3.0, 6.0], "a view in another order is no copy of that"


def test_differences_are_packed_in_the_same_memory_again_and_widened() -> None:
    room = Room()
    ones = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(2)]
    first = pack(ones, room)
    second = pack([3 * t for t in ones], room, minus=ones)
    assert [b.flat.data_ptr() for b in first] == [b.flat.data_ptr() for b in second]
    assert [t.tolist() for t in unpack(second, ones)] == [[2.0] * 3, [[2.0, 2.0]] * 2, [2.0] * 2]
    assert all(b.flat.dtype is torch.float32 for b in second)


def test_averages_are_what_model_averaging_goes_back_to_and_no_later_average_changes_them() -> None:
    for same, alone in together(2, meetings, 3):
        assert same == [True] * 3
        assert alone


def meetings(meet: Meet, count: int) -> tuple[list[bool], bool]:
    """Behind each meeting, and one broken step: whether all is as it was. Whether two meetings use memory of their own."""
    config = StrategyConfig(synchronization=Synchronization(method="modelAveraging", every_steps=2))
    run = Run(meet, config, smooth())
    strategy: Any = run.strategy
    same, places = [], []
    for number in range(count):
        run.train(range(2 * number, 2 * number + 2))
        met = run.weights
        places.append(strategy._kept._tensors["model"]["0.weight"].data_ptr())
        average, strategy.share_scale = strategy.share_scale, _break
        try:
            run.train(range(2 * number + 2, 2 * number + 4))  # breaks off in the middle of the next meeting
        except ConnectionError:
            strategy.undo()
        strategy.share_scale = average
        same.append(torch.equal(run.weights, met))
    run.done()
    return same, places[0] != places[1]


def _break() -> None:
    raise ConnectionError
