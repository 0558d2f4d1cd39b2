from __future__ import annotations

import asyncio

import pytest

from disttrain_operator.shell import resync as module
from disttrain_operator.shell.cache import Cache
from disttrain_operator.shell.kinds import JOBS, PODS
from disttrain_operator.shell.resync import BLIND_SECONDS, Resync
from support.fake_kube import FakeKube
from support.raw_objects import a_raw_job, a_raw_pod

KEY = ("team", "mnist")


class Rig:
    def __init__(self) -> None:
        self.kube, self.cache, self.woken, self.time = FakeKube(), Cache(), [], 0.0
        self.resync = Resync(self.kube, self.cache, (), self.woken.append, clock=lambda: self.time)
        self.kube.put(JOBS, a_raw_job())
        self.kube.put(PODS, a_raw_pod(0))

    async def after(self, seconds: float) -> str | None:
        self.time += seconds
        await self.resync.compare()
        return self.resync.problem()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.001)


async def test_synced_when_the_watches_have_told_everything() -> None:
    rig = Rig()
    catching_up = asyncio.create_task(rig.resync.catch_up())
    await asyncio.sleep(0.02)
    assert not rig.resync.synced.is_set()
    rig.kube.deliver(rig.cache, 1)
    await asyncio.sleep(0.02)
    assert not rig.resync.synced.is_set(), "the pod is still missing"
    rig.kube.deliver(rig.cache)
    await asyncio.wait_for(catching_up, 10)
    assert rig.resync.synced.is_set()


async def test_an_object_that_changes_all_the_time_does_not_hold_up_the_start() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.kube.change(PODS, "team", "mnist-0", lambda p: p["metadata"].update(x="y"))
    await asyncio.wait_for(rig.resync.catch_up(), 10)


async def test_what_came_and_went_at_the_start_is_not_waited_for() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.cache.pod_gone("uid-0")
    await asyncio.wait_for(rig.resync.catch_up(), 10)


async def test_what_went_before_the_watches_began_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_LOOKS", 3)
    rig = Rig()
    rig.kube.told.clear()
    catching_up = asyncio.create_task(rig.resync.catch_up())
    await asyncio.sleep(0.02)
    rig.kube.remove(PODS, "team", "mnist-0")
    rig.kube.remove(JOBS, "team", "mnist")
    await asyncio.wait_for(catching_up, 10)


async def test_an_empty_cluster_is_synced_at_once() -> None:
    resync = Resync(FakeKube(), Cache(), (), lambda key: None)
    await resync.catch_up()
    assert resync.synced.is_set()


async def test_what_went_without_a_word_is_dropped_and_its_job_looked_at() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.kube.remove(PODS, "team", "mnist-0")
    rig.kube.told.clear()  # the watch started over just then
    await rig.resync.compare()
    assert rig.cache.pods(KEY, "job-uid") == () and rig.woken == [KEY]


async def test_a_job_that_went_without_a_word_is_dropped() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    rig.kube.remove(JOBS, "team", "mnist")
    rig.kube.told.clear()
    await rig.resync.compare()
    assert rig.cache.job(KEY) is None and KEY in rig.woken


async def test_what_appears_while_it_lists_is_not_taken_for_gone() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    await rig.resync.compare()
    late = a_raw_pod(1)
    listing = rig.kube.listing

    async def and_then(kind, *rest):  # type: ignore[no-untyped-def]
        async for item in listing(kind, *rest):
            yield item
        if kind == PODS:
            rig.cache.pod_seen(late)

    rig.kube.listing = and_then  # type: ignore[method-assign]
    await rig.resync.compare()
    assert {p.uid for p in rig.cache.pods(KEY, "job-uid")} == {"uid-0", "uid-1"}


async def test_a_watch_that_stays_behind_for_a_minute_is_blind() -> None:
    rig = Rig()
    rig.kube.deliver(rig.cache)
    assert await rig.after(0) is None
    rig.kube.change(PODS, "team", "mnist-0", lambda p: p["status"].update(phase="Failed"))
    assert await rig.after(5) is None
    assert await rig.after(BLIND_SECONDS - 1) is None
    problem = await rig.after(1)
    assert problem is not None and "1 objects" in problem
    rig.kube.deliver(rig.cache)
    assert await rig.after(0) is None


async def test_a_busy_object_is_not_a_blind_watch() -> None:
    rig = Rig()
    for _ in range(30):
        rig.kube.deliver(rig.cache)
        rig.kube.change(PODS, "team", "mnist-0", lambda p: p["metadata"].update(x="y"))
        assert await rig.after(10) is None, "always one event behind, but never the same one"


async def test_only_the_given_namespaces_are_listed() -> None:
    kube = FakeKube()
    kube.put(JOBS, a_raw_job())
    resync = Resync(kube, Cache(), ("elsewhere",), lambda key: None)
    await asyncio.wait_for(resync.catch_up(), 10)
