"""State from rank to rank: who gives to whom, in which pieces, and what happens to a damaged one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.errors import TransferError, is_victim
from disttrain_runtime.survivors import CHUNK, LONG, NOTHING, Sharing, cut, give, share, take

pytestmark = pytest.mark.torch


def test_the_newest_state_goes_to_those_who_have_none_or_are_behind() -> None:
    assert share([7, NOTHING, 7, 6]) == Sharing(7, {1: 0, 3: 2}), "two holders share the work"
    assert share([0, NOTHING]) == Sharing(0, {1: 0}), "an untrained state is a state, too"
    assert share([5, 5]) == Sharing(5, {})
    assert share([NOTHING, NOTHING]) is None


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 17), st.integers(1, 60))
def test_chunks_cover_every_byte_once_and_in_order(sizes: list[int], chunk: int, long: int) -> None:
    plan = list(cut(sizes, chunk, long))
    seen = [(p.tensor, p.start + i) for pieces in plan for p in pieces for i in range(p.bytes)]
    assert seen == [(tensor, i) for tensor, size in enumerate(sizes) for i in range(size)]
    for pieces in plan:
        assert 0 < sum(p.bytes for p in pieces) <= chunk
        assert [p.at for p in pieces] == [sum(q.bytes for q in pieces[:i]) for i in range(len(pieces))]
        assert len(pieces) == 1 or all(sizes[p.tensor] < long for p in pieces), "a long one is never copied with others"


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(10, 17))
def test_short_tensors_fill_whole_chunks(sizes: list[int], chunk: int) -> None:
    assert all(sum(p.bytes for p in pieces) == chunk for pieces in list(cut(sizes, chunk, 10))[:-1])


class Done:
    def __init__(self, finish: Callable[[], None] = lambda: None) -> None:
        self.wait = finish


class Wire:
    """A group of two, in one process. `damage` may change a chunk on its way."""

    def __init__(self, damage: bool = False) -> None:
        self.line: queue.Queue[Any] = queue.Queue()
        self.damage = damage

    def send(self, tensor: Any, to: int) -> None:
        self.line.put(tensor.clone())

    def receive(self, tensor: Any, giver: int) -> None:
        tensor.copy_(self.line.get(timeout=20))

    def start_send(self, tensor: Any, to: int) -> Done:
        copy = tensor.clone()
        if self.damage:
            copy[len(copy) // 2] ^= 1
        self.line.put(copy)
        return Done()

    def start_receive(self, tensor: Any, giver: int) -> Done:
        return Done(lambda: self.receive(tensor, giver))


STATE = {
    "model": {
        "large": torch.arange(CHUNK // 3, dtype=torch.float64),
        "long and turned": torch.arange(LONG // 2.0).reshape(2, -1).t(),
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "half": torch.ones(5, dtype=torch.bfloat16),
    },
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.1, "betas": (0.9, 0.999)},
}


def carried(
    wire: Wire, given: Callable[[], None] = lambda: None, taken: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    giver = threading.Thread(target=give, args=(STATE, wire, 1, given))
    giver.start()
    try:
        return take(wire, 0, taken)  # type: ignore[arg-type]
    finally:
        giver.join(20)


def test_every_kind_of_tensor_arrives_as_it_was() -> None:
    found = carried(Wire())
    for name, tensor in STATE["model"].items():  # type: ignore[union-attr]
        assert torch.equal(found["model"][name], tensor) and found["model"][name].dtype == tensor.dtype
    assert found["optimizer"]["betas"] == (0.9, 0.999) and found["optimizer"]["state"][0]["step"] == 3.0


def test_each_chunk_is_a_sign_of_life_on_both_ends() -> None:
    """However large the state: a rank that is silent for half a minute here does not come back."""
    given: list[int] = []
    taken: list[int] = []
    carried(Wire(), lambda: given.append(1), lambda: taken.append(1))
    large = STATE["model"]["large"]  # type: ignore[index]
    assert len(given) == len(taken) > large.numel() * large.element_size() / CHUNK


def test_a_bit_that_flips_on_the_way_is_noticed_and_is_nobodys_fault() -> None:
    with pytest.raises(TransferError, match="digests differ") as caught:
        carried(Wire(damage=True))
    assert is_victim(caught.value), "the group forms anew and tries again"
