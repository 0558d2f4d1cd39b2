from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from disttrain_operator.shell import leader as module
from disttrain_operator.shell.errors import ClusterError
from disttrain_operator.shell.kinds import LEASES, Raw
from disttrain_operator.shell.leader import LEASE_SECONDS, RENEW_DEADLINE, Leader, LeaseLost
from support.fake_kube import FakeKube, Write, not_arrived

PLACE = ("team", "lease")


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def a_leader(kube: FakeKube, clock: Clock, identity: str) -> Leader:
    def now() -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=clock.time)

    return Leader(kube, namespace="team", name="lease", identity=identity, clock=clock, now=now)


def lease(kube: FakeKube) -> Raw:
    return kube.named(LEASES)["lease"]["spec"]


async def tries(leader: Leader) -> bool:
    return await leader._try()


async def test_the_first_one_leads() -> None:
    kube, clock = FakeKube(), Clock()
    first = a_leader(kube, clock, "a")
    assert not first()
    assert await tries(first) and first()
    assert lease(kube)["holderIdentity"] == "a"


async def test_the_second_one_waits_for_as_long_as_the_first_one_renews() -> None:
    kube, clock = FakeKube(), Clock()
    first, second = a_leader(kube, clock, "a"), a_leader(kube, clock, "b")
    await tries(first)
    for _ in range(30):
        clock.time += 2
        assert await tries(first) and not await tries(second)


async def test_a_silent_leader_is_replaced_after_its_lease_by_the_others_own_clock() -> None:
    kube, clock = FakeKube(), Clock()
    first, second = a_leader(kube, clock, "a"), a_leader(kube, clock, "b")
    await tries(first)
    assert not await tries(second)
    clock.time += LEASE_SECONDS - 1
    assert not await tries(second)
    clock.time += 1
    assert await tries(second) and second()
    assert lease(kube)["leaseTransitions"] == 1


async def test_never_do_two_lead() -> None:
    """The first one is stopped (SIGSTOP) right after a renewal, and wakes when the second one leads."""
    kube, clock = FakeKube(), Clock()
    first, second = a_leader(kube, clock, "a"), a_leader(kube, clock, "b")
    await tries(first)
    await tries(second)
    while not await tries(second):
        clock.time += 0.5
        assert not (first() and second())
    assert not first(), "it knows by its clock, before it asks anybody"
    assert not await tries(first)


async def test_a_leader_stops_acting_well_before_another_may_begin() -> None:
    kube, clock = FakeKube(), Clock()
    first = a_leader(kube, clock, "a")
    await tries(first)
    kube.fault = not_arrived
    clock.time += RENEW_DEADLINE - 0.1
    assert not await tries(first) and first()
    clock.time += 0.2
    assert not first() and RENEW_DEADLINE < LEASE_SECONDS


async def test_who_comes_second_to_the_same_moment_loses() -> None:
    kube, clock = FakeKube(), Clock()
    first, second, third = (a_leader(kube, clock, name) for name in "abc")
    await tries(first)
    await tries(second), await tries(third)
    clock.time += LEASE_SECONDS

    def meanwhile(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        kube.fault = lambda number, write, do: do()
        kube.change(LEASES, *PLACE, lambda found: found["spec"].update(holderIdentity="c"))
        return do()

    kube.fault = meanwhile
    assert not await tries(second) and lease(kube)["holderIdentity"] == "c"


async def test_a_container_that_restarts_in_its_pod_goes_on_at_once() -> None:
    kube, clock = FakeKube(), Clock()
    await tries(a_leader(kube, clock, "operator-0"))
    assert await tries(a_leader(kube, clock, "operator-0"))
    assert lease(kube)["leaseTransitions"] == 0


async def test_an_orderly_end_hands_over_at_once() -> None:
    kube, clock = FakeKube(), Clock()
    first, second = a_leader(kube, clock, "a"), a_leader(kube, clock, "b")
    await tries(first)
    await first.release()
    assert not first() and await tries(second)


async def test_a_lost_lease_is_not_given_back_over_the_new_leader() -> None:
    kube, clock = FakeKube(), Clock()
    first, second = a_leader(kube, clock, "a"), a_leader(kube, clock, "b")
    await tries(first)
    await tries(second)
    clock.time += LEASE_SECONDS
    await tries(second)
    await first.release()
    assert lease(kube)["holderIdentity"] == "b"


async def test_holding_ends_with_an_error_when_the_lease_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    kube, clock = FakeKube(), Clock()
    first = a_leader(kube, clock, "a")
    await first.acquire()

    def outage(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        clock.time += 3
        raise ClusterError("500", code=500)

    kube.fault = outage
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(first.hold(), 5)
    assert not first()


async def test_an_api_server_that_never_answers_cannot_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_DEADLINE", 0.02)
    kube, clock = FakeKube(), Clock()
    first = a_leader(kube, clock, "a")

    async def never(*_: object) -> Raw:
        await asyncio.Event().wait()
        return {}

    kube.get = never  # type: ignore[method-assign, assignment]
    assert not await asyncio.wait_for(tries(first), 5)


async def test_a_loop_that_hangs_is_noticed_by_the_probe() -> None:
    clock = Clock()
    first = a_leader(FakeKube(), clock, "a")
    assert first.problem() is None, "nothing is wrong before it has begun"
    await tries(first)
    clock.time += 61
    problem = first.problem()
    assert problem is not None and "61 s" in problem
