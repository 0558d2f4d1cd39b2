"""The group breaks while one rank has the new common model already and another has not: what the latter makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple

import pytest

pytest.importorskip("torch")

import torch

from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.data import Batch, training_batches
from disttrain_runtime.groups import Group
from disttrain_runtime.rendezvous import alone
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.strategies import di_lo_co
from disttrain_runtime.strategies.common_model import CommonModel
from disttrain_runtime.strategies.di_lo_co import DiLoCo
from disttrain_runtime.strategies.round_robin import RoundRobin
from support.local_tasks import build

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


class SomebodyElsesTurn(RoundRobin):
    """In a group of one every turn is one's own."""

    def turn(self, finished: int) -> int:
        return 1

    def _tell(self) -> list[torch.Tensor]:
        return [torch.full_like(p, 0.25) for p in self.live]


KINDS = {
    "a fragment": (DiLoCo, {"fragments": 2, "every_steps": 4}),
    "own turn": (RoundRobin, {"every_steps": 2}),
    "another's turn": (SomebodyElsesTurn, {"every_steps": 2}),
}


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with alone():
        yield


def batches(steps: int) -> list[Batch]:
    task = build()
    order = SampleOrder(seed=0, samples=len(task.train_data), batch_size=task.batch_size)
    return list(training_batches(task, order, (order.share(s, 0, 1) for s in range(steps)), CPU))


def made(kind: str) -> CommonModel:
    technique, chosen = KINDS[kind]
    torch.manual_seed(0)
    found = technique(build(), StrategyConfig(synchronization=Synchronization(**chosen)), CPU)
    found.join(Group(0, 1, CPU))
    found.equalise()
    return found


def values(strategy: CommonModel) -> list[torch.Tensor]:
    moments = [t for s in strategy.optimizer.state.values() for t in s.values()]
    return [*strategy.live, *strategy.common, *moments]


def broken(*_: object, **__: object) -> None:
    raise ConnectionError


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_to_the_same_as_if_it_had_seen_the_end_of_the_exchange(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 is the last before a meeting: both make it, one of them does not hear what came of the exchange."""
    ahead, behind = made(kind), made(kind)
    *before, last = batches(4)
    for batch in before:
        ahead.step(batch)
        behind.step(batch)
    ahead.step(last)
    monkeypatch.setattr(di_lo_co, "weighted_sum", broken)
    monkeypatch.setattr(behind, "_tell", broken, raising=False)
    with pytest.raises(ConnectionError):
        behind.step(last)
    assert not all(torch.equal(a, b) for a, b in zip(ahead.live, behind.live, strict=True))
    behind.load(ahead.state())
    for a, b in zip(values(ahead), values(behind), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert ahead.untold == behind.untold


@pytest.mark.parametrize("kind", KINDS)
def test_undone_it_is_as_at_the_last_meeting(kind: str) -> None:
    strategy = made(kind)
    for batch in batches(4):
        strategy.step(batch)
    met, untold = [v.detach().clone() for v in values(strategy)], [astuple(s) for s in strategy.untold]
    strategy.step(batches(5)[-1])
    assert not all(torch.equal(a, b) for a, b in zip(met, values(strategy), strict=True))
    strategy.undo()
    assert all(torch.equal(a, b) for a, b in zip(met, values(strategy), strict=True))
    assert [astuple(s) for s in strategy.untold] == untold


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_rank_begins_at_the_common_model(kind: str) -> None:
    old, new = made(kind), made(kind)
    for batch in batches(4):
        old.step(batch)
    new.load(old.state())
    assert all(torch.equal(a, b) for a, b in zip(old.common, new.live, strict=True))
    assert not new.optimizer.state
    assert new.optimizer.param_groups[0]["lr"] == old.optimizer.param_groups[0]["lr"] != 0.01
